"""Mutation testing: do the default tests notice a one-line fault?

    python tests/mutate.py                    # 20 faults, drawn with seed 0 and spread over the modules
    python tests/mutate.py --list             # only print them
    python tests/mutate.py --only 3 17 --show # run two of them, and print how pytest ended

Each fault is one edit of one expression: a sign, an off-by-one, a swapped axis, a dropped stop_gradient, and so on. It is
made in a copy of the checkout, where the README's test command then runs until the first failure. A fault that no test
notices is printed as `survived`: then a test is missing, or the fault changes nothing that a user could see. The exit code
is the number of survivors.
"""

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
TEST_COMMAND = ["-m", "pytest", "-x", "-q", "-n", "auto", "-p", "no:cacheprovider"]

OPERATORS = {ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*")}
COMPARISONS = {ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"),
               ast.Eq: ("==", "!="), ast.NotEq: ("!=", "==")}  # fmt: skip
SWAPS = [("maximum", "minimum"), ("max", "min"), ("all", "any"), ("floor", "ceil"), ("exp", "log"), ("mean", "sum"),
         ("ones", "zeros"), ("expm1", "exp"), ("log1p", "log"), ("var", "std")]  # fmt: skip
FUNCTIONS = dict(SWAPS) | {other: one for one, other in reversed(SWAPS)} | {"logsumexp": "max"}
IDENTITIES = ("stop_gradient", "abs", "sqrt", "square")


class Fault(NamedTuple):
    """One edit: `old` at (line, column) of `path` becomes `new`."""

    path: Path
    line: int
    column: int
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column + 1}: {self.old!r} becomes {self.new!r}"

    def apply(self, root: Path) -> None:
        lines = (root / self.path).read_text().splitlines(keepends=True)
        encoded = lines[self.line - 1].encode()  # ast counts columns in bytes
        before, after = encoded[: self.column], encoded[self.column :]
        assert after.startswith(self.old.encode()), self
        lines[self.line - 1] = (before + self.new.encode() + after[len(self.old.encode()) :]).decode()
        (root / self.path).write_text("".join(lines))


def faults_of_node(node: ast.AST, source: str) -> Iterator[tuple[ast.expr, str]]:
    """The expression to replace, and its replacement, for every fault that starts at this node."""

    def text(part: ast.expr) -> str:
        return ast.get_source_segment(source, part) or ""

    def swap(node: ast.expr, left: ast.expr, right: ast.expr, sign: str, other: str) -> Iterator[tuple[ast.expr, str]]:
        """The operator between two operands, whose own parentheses stay."""
        if node.lineno == node.end_lineno:
            whole = text(node).encode()
            start, stop = left.end_col_offset - node.col_offset, right.col_offset - node.col_offset
            between = whole[start:stop].decode()
            if between.count(sign) == 1:
                yield node, whole[:start].decode() + between.replace(sign, other) + whole[stop:].decode()

    match node:
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS and not isinstance(left, ast.Constant):
            yield from swap(node, left, right, *OPERATORS[type(op)])
        case ast.UnaryOp(op=ast.USub(), operand=operand) if not isinstance(operand, ast.Constant):
            yield node, f"({text(node)[1:]})"
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield node, f"bool({text(node)[3:].strip()})"
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in COMPARISONS:
            yield from swap(node, left, right, *COMPARISONS[type(op)])
        case ast.Call(func=ast.Attribute(attr=name), args=[argument, *_]) if name in IDENTITIES:
            yield node, f"({text(argument)})"
        case ast.Call(func=ast.Attribute(attr=name) as func) if name in FUNCTIONS:
            yield func, f"{text(func).removesuffix(name)}{FUNCTIONS[name]}"
        case ast.keyword(arg="axis" | "ddof", value=ast.Constant(value=0 | 1 as number) as value):
            yield value, str(1 - number)
        case ast.Slice(lower=ast.Constant(value=int(start)) as lower):
            yield lower, str(start + 1)


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes in which a fault may be made: not in the text of errors, in assertions, annotations or decorators."""
    if isinstance(node, ast.Raise | ast.Assert | ast.arg | ast.JoinedStr):
        return
    yield node
    for name, value in ast.iter_fields(node):
        if name not in ("returns", "annotation", "decorator_list"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from walk(child)


def faults_of_file(path: Path) -> list[Fault]:
    source = path.read_text()
    found = []
    for node in walk(ast.parse(source)):
        for target, new in faults_of_node(node, source):
            old = ast.get_source_segment(source, target)
            if old and target.lineno == target.end_lineno and "\n" not in new and new != old:
                found.append(Fault(path.relative_to(ROOT), target.lineno, target.col_offset, old, new))
    return found


def draw(count: int, seed: int) -> list[Fault]:
    """So many faults: modules in random order, one fault of each, then the next round."""
    rng = random.Random(seed)
    modules = {path: faults_of_file(path) for path in sorted((ROOT / "mi_jax").rglob("*.py"))}
    order = [path for path, faults in modules.items() if faults]
    drawn: list[Fault] = []
    while len(drawn) < count:
        rng.shuffle(order)
        drawn += [modules[path].pop(rng.randrange(len(modules[path]))) for path in order if modules[path]]
    return drawn[:count]


def run(fault: Fault, show: bool) -> bool:
    """Whether the default tests fail with this fault."""
    with tempfile.TemporaryDirectory(prefix="mi_jax-mutant-") as folder:
        copy = Path(folder) / "checkout"
        ignored = shutil.ignore_patterns(".git", "__pycache__", ".*_cache", "out")
        shutil.copytree(ROOT, copy, ignore=ignored)
        if (ROOT.parent / "shared").is_dir():
            (Path(folder) / "shared").symlink_to(ROOT.parent / "shared")
        fault.apply(copy)
        done = subprocess.run([sys.executable, *TEST_COMMAND], cwd=copy, capture_output=True, text=True, check=False)
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    print("\n".join(done.stdout.splitlines()[-20:] if show else failed[:1]), flush=True)
    return done.returncode != 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--list", action="store_true", help="print the faults, run nothing")
    parser.add_argument("--only", type=int, nargs="+", metavar="NUMBER", help="run the faults with these numbers")
    parser.add_argument("--show", action="store_true", help="print the end of pytest's output")
    options = parser.parse_args()
    survived = 0
    with tempfile.TemporaryDirectory(prefix="mi_jax-programs-") as programs:
        os.environ.setdefault("MI_JAX_TEST_PROGRAMS", programs)  # unchanged programs are compiled once for all faults
        for number, fault in enumerate(draw(options.count, options.seed)):
            if options.only is not None and number not in options.only:
                continue
            print(f"{number}: {fault}", flush=True)
            if options.list:
                continue
            start = time.monotonic()
            noticed = run(fault, options.show)
            survived += not noticed
            print(f"   {'noticed' if noticed else 'survived'} after {time.monotonic() - start:.0f} s", flush=True)
    return survived


if __name__ == "__main__":
    sys.exit(main())
