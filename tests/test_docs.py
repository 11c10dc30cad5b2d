"""The README and the pages under docs/: their links, their length, and the examples in them.

By default the Python blocks of a page run shortened, to see that they work. At full length (`-m slow`) they run as they are
printed, and what they print is compared with the output that the page shows.
"""

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"  # a source archive is without them
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
COMMAND = "python -m mi_jax "  # shell commands that the full run runs

# What makes the examples of a page short: fewer rows and steps, smaller networks, and shapes that recur between pages.
SMALL_FIT = 'critic="bilinear", steps=50, batch_size=64, folds=2'
SHORTER = {
    "README.md": {
        "4_000)": "400)",
        "mi_jax.estimate(x, y)": f"mi_jax.estimate(x, y, {SMALL_FIT}, repeats=2)",
    },
    "first-number.md": {
        "4_000)": "400)",
        "mi_jax.estimate(x, y)": f"mi_jax.estimate(x, y, {SMALL_FIT}, repeats=2)",
        "mi_jax.estimate(x[:, :1], y)": f"mi_jax.estimate(x[:, ::-1], y, {SMALL_FIT}, repeats=2)",
        "permutations=999, steps=500)": f"permutations=1, retrain=True, {SMALL_FIT})",
    },
    "when-to-believe-it.md": {
        "groups=groups, steps=300)": f"groups=groups, {SMALL_FIT})",
        "for groups in (None, subject)": "for groups in (subject,)",
        "4_000)": "400)",
        "folds=2, steps=300": "estimator=lambda x, y: 1.0",
        "dim=20, mi=2.0": "dim=2, mi=2.0",
        "300)": "400)",
        "mi_jax.estimate(x, y)": f"mi_jax.estimate(x, y, {SMALL_FIT}, repeats=2)",
    },
    "training-step.md": {
        "2_000)": "4)",
        "SeparableCritic()": "BilinearCritic()",
        "4_096": "16",
    },
    "studies.md": {
        "2_000": "4",
        "1_000": "50",
        "SeparableCritic()": "BilinearCritic()",
        "js=estimators.js(), smile_1=estimators.smile(1.0), ": "",
        ', dv=estimators.smile(float("inf"))': "",
        "models.gm()": "models.gm(networks.JointRealNVP(1, ()), networks.RealNVP(1, ()), networks.RealNVP(1, ()))",
    },
    "images.md": {},
    "statistics.md": {},
}


def page_id(page):
    return page.name


def without_code(text):
    return re.sub(r"`[^`\n]*`", "", BLOCK.sub("", text))


def list_links(text):
    """The targets of the links and images of a page, outside of its code."""
    return re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", without_code(text))


def list_anchors(text):
    """The anchors that GitHub gives to the headings of a page."""
    anchors = set()
    for heading in re.findall(r"^#+ (.+)$", BLOCK.sub("", text), flags=re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        numbered = (f"{slug}-{number}" for number in itertools.count(1))
        anchors.add(slug if slug not in anchors else next(name for name in numbered if name not in anchors))
    return anchors


def find_broken_links(text, page):
    """The relative links of a page that lead to no file of the repository, or to no heading of one."""
    broken = []
    for link in list_links(text):
        if re.match(r"[a-z]+:", link) or ("benchmarks/results" in link and not RESULTS.exists()):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        found = target.exists() and target.is_relative_to(ROOT)
        if not found or (anchor and anchor not in list_anchors(text if target == page else target.read_text())):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page):
    assert find_broken_links(page.read_text(), page) == []


def test_broken_links_are_found():
    text = "# A title, twice\n\n## A title, twice\n\n[a](#a-title-twice) [b](#a-title-twice-1) [c](LICENSE) ![d](docs)\n"
    assert find_broken_links(text, README) == []
    for broken in ("nowhere.md", "#no-title", "CONTRIBUTING.md#no-title", "../README.md"):
        assert find_broken_links(f"{text}[e]({broken}) `[f](code.md)`", README) == [broken]


def test_the_readme_is_one_page_and_leads_to_all_others():
    text = README.read_text()
    assert len(text.splitlines()) <= 150
    for page in PAGES[1:]:
        assert f"docs/{page.name}" in list_links(text), f"the README does not link to docs/{page.name}"


def test_the_design_names_every_module():
    words = set(re.findall(r"\w+", (ROOT / "docs" / "design.md").read_text()))
    modules = {path.stem for path in (ROOT / "mi_jax").rglob("*.py") if path.stem != "__init__"}
    assert modules <= words


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_a_page_has_one_title_and_no_open_code_block(page):
    text = page.read_text()
    assert text.startswith("# ")
    assert len(re.findall(r"^```", text, flags=re.MULTILINE)) == 2 * len(BLOCK.findall(text))
    assert len(re.findall(r"^# ", BLOCK.sub("", text), flags=re.MULTILINE)) == 1


WITH_PYTHON = [page for page in PAGES if "```python" in page.read_text()]


def test_the_table_of_shorter_examples_names_the_pages_that_have_examples():
    assert {page.name for page in WITH_PYTHON} == set(SHORTER)


# Five trainings take 25 s to compile, however short they are.
SHORT_ENOUGH = [pytest.param(page, marks=pytest.mark.slow if page.name == "studies.md" else ()) for page in WITH_PYTHON]


@pytest.mark.parametrize("page", SHORT_ENOUGH, ids=page_id)
def test_the_examples_run_when_shortened(page, tmp_path, monkeypatch):
    text = page.read_text()
    for long, short in SHORTER[page.name].items():
        assert long in text, f"{page.name} no longer holds {long!r}"
        text = text.replace(long, short)
    monkeypatch.chdir(tmp_path)
    scope = {"__name__": page.stem}
    for kind, block in BLOCK.findall(text):
        if kind == "python":  # later blocks use names of earlier ones
            exec(compile(block, page.name, "exec"), scope)


def run_command(line):
    """What a line of shell that runs `python -m mi_jax` prints, without its progress."""
    program = f"PYTHONPATH={ROOT} {sys.executable} -m mi_jax "
    return subprocess.run(line.replace(COMMAND, program), shell=True, capture_output=True, text=True, check=True).stdout


def assert_says_the_same(printed, shown):
    """The same words; and numbers that are near, as the last digits depend on the machine and on the version of JAX."""
    assert NUMBER.sub("#", printed.strip()) == NUMBER.sub("#", shown.strip())
    numbers = [[float(number) for number in NUMBER.findall(text)] for text in (printed, shown)]
    assert numbers[0] == pytest.approx(numbers[1], rel=0.1, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_PYTHON, ids=page_id)
def test_the_examples_print_what_the_page_shows(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scope, printed = {"__name__": page.stem}, ""
    for kind, block in BLOCK.findall(page.read_text()):
        if kind == "python":
            exec(compile(block, page.name, "exec"), scope)
            printed = capsys.readouterr().out
        elif kind == "sh":
            printed = run_command(block) if block.startswith(COMMAND) else ""
        elif kind == "text" and printed:
            assert_says_the_same(printed, block)
            printed = ""


def test_near_numbers_and_the_same_words_pass():
    assert_says_the_same("1.02 nats ± 0.027\n", "1.00 nats ± 0.03\n")
    for other in ("1.52 nats ± 0.027", "1.02 bits ± 0.027"):
        with pytest.raises(AssertionError):
            assert_says_the_same(other, "1.02 nats ± 0.027")
