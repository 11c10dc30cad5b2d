"""Kills a training study again and again, and proves that it ends with the same bits as a study that is left alone.

    python -m benchmarks.study.kills --kills 10 --out DIR

runs `benchmarks.study`, small, once without disturbance; then again, killing it (SIGKILL) at random moments and starting it
anew each time until it has been killed so often, and to its end; and compares every array of both. It ends with 1 if one
differs.
"""

import random
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from benchmarks.lib import cli, machine
from benchmarks.study.experiment import Protocol
from mi_jax.training import Study, layout

SMALL = Protocol(mis=(2.0, 6.0), learning_rates=(5e-4,), num_seeds=4, steps=4_000)
CHUNK = 100  # steps between checkpoints, so that a kill meets one being written every now and then


def command(out: Path) -> list[str]:
    """The study's command line, of `SMALL`."""
    mis, rates = (" ".join(map(str, values)) for values in (SMALL.mis, SMALL.learning_rates))
    options = f"--mis {mis} --learning-rates {rates} --seeds {SMALL.num_seeds} --steps {SMALL.steps} --chunk {CHUNK}".split()
    return [sys.executable, "-m", "benchmarks.study", "--out", str(out), *options, "--checkpoint-every", "0"]


def kill_at_random(out: Path, kills: int, longest: float, rng: random.Random) -> None:
    """Start the study and kill it, so many times, each after a time drawn evenly up to `longest` seconds."""
    killed = 0
    while killed < kills:
        process = subprocess.Popen(command(out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        after = rng.uniform(0.0, longest)
        try:
            _, errors = process.communicate(timeout=after)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed += 1
            print(f"killed after {after:.1f} s: {progress(out)}", flush=True)
            continue
        if process.returncode:
            raise ValueError(f"the study ended with {process.returncode}: {errors.strip()}")
        print(f"ended before it was to be killed, after {after:.1f} s; starting over", flush=True)
        shutil.rmtree(out)


def progress(out: Path) -> str:
    """What is on disk of a study."""
    finished = sum(path.name.isdecimal() for path in (out / "study" / "runs").glob("*/*"))
    steps = [int(path.name) for path in (out / "study" / "partial").glob("*/*") if path.name.isdecimal()]
    unfinished = len(list((out / "study").glob("*/*/*.orbax-checkpoint-tmp*")))
    at = f", the next at step {max(steps)}" if steps else ""
    return f"{finished} runs finished{at}{', one checkpoint half written' if unfinished else ''}"


def differing(one: Study, other: Study) -> list[str]:
    """The arrays of two studies that are not the same, bit for bit."""
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(numbers(one))]
    pairs = zip(jax.tree.leaves(numbers(one)), jax.tree.leaves(numbers(other)), strict=True)
    return [path for path, (ours, theirs) in zip(paths, pairs, strict=True) if ours.tobytes() != theirs.tobytes()]


def numbers(study: Study) -> dict[str, object]:
    """Estimates, parameters and all else of the states, as NumPy arrays."""
    states = study.states._replace(key=jax.random.key_data(study.states.key))
    tree = {"history": study.history, "fixed": study.fixed, "states": states, "finished": study.finished}
    return jax.tree.map(np.asarray, layout.to_host(tree))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, kill, compare."""
    parser = cli.parser("study.kills", __doc__)
    parser.add_argument("--kills", type=cli.positive_int, default=10, help="how many times the study is killed")
    parser.add_argument("--out", type=Path, required=True, help="folder for both studies; must not be there yet")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    options = parser.parse_args(arguments)
    machine.use_all_cores()
    with cli.clear_errors(parser):
        options.out.mkdir(parents=True)
        whole, killed = options.out / "whole", options.out / "killed"
        start = time.perf_counter()
        subprocess.run(command(whole), check=True, stdout=subprocess.DEVNULL)
        longest = time.perf_counter() - start
        print(f"undisturbed: {progress(whole)} in {longest:.1f} s", flush=True)
        kill_at_random(killed, options.kills, longest, random.Random(options.seed))
        subprocess.run(command(killed), check=True, stdout=subprocess.DEVNULL)
        ends = [SMALL.study(folder / "study", 0.0, chunk=CHUNK) for folder in (whole, killed)]
        lost = differing(*ends) + [str(end.run_seconds) for end in ends if end.run_seconds]  # all must be on disk
        print(f"after {options.kills} kills: {progress(killed)}; {len(jax.tree.leaves(numbers(ends[0])))} arrays compared")
        if lost or not ends[1].finished.all():
            parser.exit(1, f"not the same bits: {', '.join(lost) or 'runs are missing'}\n")
        print("the same bits everywhere")


if __name__ == "__main__":
    main()
