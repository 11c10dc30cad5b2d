"""What rows and pages say of the machine."""

import subprocess
import sys

import numpy as np
import pytest

from benchmarks.lib import machine


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (42, "42 s"), (180, "3 min"), (9_000, "2.5 h")])
def test_durations(seconds, text):
    assert machine.duration(seconds) == text


def test_a_page_names_the_machines_of_its_rows():
    other = {"devices": 8, "device_kind": "TPU v4", "machine": "x86_64", "threads": 96, "versions": {"jax": "0.10.1"}}
    described = machine.description(other, machine.environment(), {}, other)
    assert described == f"8 x TPU v4 (x86_64, 96 cores), jax 0.10.1; {machine.description()}"
    assert machine.processor() in machine.description()


def test_bits_depend_on_the_versions_and_not_on_the_commit():
    here = machine.environment()
    assert machine.same_bits(here, here | {"commit": "another"})
    assert not machine.same_bits(here, here | {"versions": {}})
    assert machine.same_bits({}, here)


@pytest.mark.slow
def test_memory_of_a_process_is_not_that_of_its_parent():
    ballast = np.ones(2**27)  # 1 GiB
    code = "from benchmarks.lib import machine; print(machine.peak_memory())"
    own = float(subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout)
    assert 50 < own < 800 < ballast.nbytes / 2**20 <= machine.peak_memory()
