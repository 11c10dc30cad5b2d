import os
import subprocess
import sys
import time

import pytest

from mi_jax.cli import programs

# What a process prints that keeps programs as an option says, and compiles one.
SCRIPT = """
import sys, warnings
from pathlib import Path
import jax
from mi_jax.cli import programs
warnings.simplefilter("always")
folder = Path(sys.argv[2]) if sys.argv[2] else None
programs.keep(folder, off=sys.argv[1] == "off")
counter = programs.Counter()
jax.jit(lambda a: 3 * a + 1)(2.0)
print(*counter.count(), jax.config.jax_compilation_cache_dir)
"""


@pytest.fixture
def compile_one(tmp_path):
    def call(switch="on", folder="", **environment):
        environment = {"PATH": "", "PYTHONPATH": ":".join(sys.path), "XDG_CACHE_HOME": str(tmp_path / "home")} | environment
        command = [sys.executable, "-c", SCRIPT, switch, str(folder)]
        found = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=tmp_path)
        assert not found.stderr
        needed, kept, where = found.stdout.split()
        return int(needed), int(kept), where

    return call


def test_programs_are_found_again(compile_one, tmp_path):
    """In processes: JAX looks for the folder at its first compilation, and only then."""
    first, again = compile_one(), compile_one()
    assert first[1] == 0 < first[0] == again[0] == again[1]
    assert first[2] == again[2]
    assert first[2].startswith(str(tmp_path / "home" / "mi_jax" / "jaxlib-"))


@pytest.mark.slow
def test_a_folder_that_was_named(compile_one, tmp_path):
    assert compile_one(folder=tmp_path / "named")[2] == str(tmp_path / "named")
    assert any((tmp_path / "named").iterdir())
    assert not (tmp_path / "home").exists()


@pytest.mark.slow
def test_a_folder_of_jax_stays(compile_one, tmp_path):
    assert compile_one(JAX_COMPILATION_CACHE_DIR=str(tmp_path / "theirs"))[2] == str(tmp_path / "theirs")
    assert not (tmp_path / "home").exists()


def test_nothing_is_kept_if_switched_off(compile_one, tmp_path):
    assert compile_one("off") == (0, 0, "None")
    assert not (tmp_path / "home").exists()


def test_no_noise_where_nothing_can_be_kept(compile_one, tmp_path):
    (tmp_path / "file").touch()
    assert compile_one(XDG_CACHE_HOME=str(tmp_path / "file")) == (0, 0, "None")


def test_halves_of_programs_are_deleted(tmp_path):
    """A process that is killed may leave a program without the file of its last use, and then JAX would keep no more."""
    for name, age in (("whole-cache", 999), ("whole-atime", 999), ("half-cache", 999), ("new-cache", 0)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    programs._clear_halves(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"whole-cache", "whole-atime", "new-cache"}


def test_the_default_folder_depends_on_the_processor(monkeypatch):
    here = programs.default_folder()
    assert here == programs.default_folder()
    monkeypatch.setattr(programs.platform, "machine", lambda: "another")
    assert programs.default_folder() != here
    assert programs.default_folder().parent == here.parent
