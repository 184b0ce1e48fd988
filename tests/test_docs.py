"""README and docs/: README's Python runs, commands name what is there, links lead somewhere."""

import re
import shlex
from pathlib import Path

import _cli
import jax
import numpy as np
import pytest

from advspur.attacks import check_perturbation

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
PLACEHOLDER = re.compile(r"^[A-Z_]+$|NAME|\.\.\.|\$")  # DIR, configs/NAME.py, configs/$c.py


def code_of(page):
    """The lines of fenced and indented code, continued ones joined."""
    text = page.read_text().replace("\\\n", " ")
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    indented = re.findall(r"^    (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    inline = re.findall(r"`([^`\n]+)`", text)
    return [line for block in fenced for line in block.splitlines()] + indented + inline


def commands():
    """(page, script, arguments) of every command that runs a script of this repository."""
    for page in PAGES:
        for line in code_of(page):
            found = re.search(r"(?:python |^)(scripts/[\w/]+\.(?:py|sh))(.*)", line)
            if found:
                arguments = re.split(r"&&|[;|#\[\]>]", found[2])[0]
                yield page.name, found[1], arguments


COMMANDS = sorted(set(commands()))


def test_there_are_commands():
    assert len(COMMANDS) > 40 and {page for page, *_ in COMMANDS} >= {"README.md", "results.md"}


@pytest.mark.parametrize(("page", "script", "arguments"), COMMANDS)
def test_a_command_names_what_is_there(page, script, arguments):
    assert (ROOT / script).is_file()
    words = shlex.split(arguments, comments=True)
    configs = re.findall(r"--config[= ](\S+)", " ".join(words))
    if not configs or PLACEHOLDER.search(configs[0]):
        return
    assert (ROOT / configs[0]).is_file(), configs[0]
    config = _cli.load_config(ROOT / configs[0])
    for key in re.findall(r"--config\.([\w.]+)=", " ".join(words)):
        place = config
        for name in key.split("."):
            assert name in place, f"{configs[0]} has no key {key}"
            place = place[name]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if path.startswith("https://"):
            continue
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", file.read_text(), re.M)
            slugs = {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}
            assert anchor in slugs, target


def test_the_python_of_readme_runs():
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    names = {}
    for block in blocks:
        exec(block, names)
    assert len(blocks) == 2
    assert bool(names["best"].converged) and names["robust"].shape == (16,)


def test_the_examples_of_contributing_run(tmp_path):
    text = (ROOT / "CONTRIBUTING.md").read_text()
    names = {"__name__": "examples"}
    for block in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S):
        exec(block, names)
    names["test_my_birds"](tmp_path)
    names["test_worst_class"]()
    names["test_claim"]()
    images, labels = np.full((2, 4, 4, 3), 0.5, np.float32), np.zeros(2, int)
    ball = {"p": 2, "epsilon": 0.5}
    moved = names["noise"](lambda x: x.mean((1, 2)), images, labels, jax.random.key(0), **ball)
    check_perturbation(moved, images, **ball)
