"""README and docs/: README's Python runs, commands name what is there, links lead somewhere."""

import re
import shlex
from pathlib import Path

import _cli
import jax
import numpy as np
import pytest
from PIL import Image

from advspur.attacks import check_perturbation

ROOT = Path(__file__).resolve().parents[2]
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
    files = script, "scripts/_cli.py", "scripts/_processes.py"
    known = "".join((ROOT / file).read_text() for file in files)
    for flag in re.findall(r"--(?!config\.)([a-z_]+)", " ".join(words)):
        assert re.search(rf"""["'](--)?(no)?{flag}["']""", known), f"{script} has no flag --{flag}"
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


def theory_names():
    """What the last block of docs/theory.md takes as given."""
    features = np.random.default_rng(0).normal(size=(400, 3))
    labels = features @ [1.0, 0.5, 0.0] + 0.1 * features[:, 2]
    return {"features": features, "labels": labels, "mask": np.array([False, False, True])}


def write_boxed(folder):
    """The folder of images that docs/own_data.md adds masks to."""
    (folder / "boxed" / "val" / "n01440764").mkdir(parents=True)
    image = Image.fromarray(np.zeros((40, 60, 3), np.uint8))
    image.save(folder / "boxed" / "val" / "n01440764" / "a.JPEG")


def python_of(page):
    """(code, whether it is marked as not run) of each block of Python of a page."""
    blocks = re.findall(
        r"(<!-- not run: [^\n]+ -->\n\n)?^```python\n(.*?)^```", page.read_text(), re.M | re.S
    )
    return [(code, bool(mark)) for mark, code in blocks]


@pytest.mark.parametrize("name", ["README", "models", "own_data", "theory"])
def test_the_python_of_a_page_runs(name, tmp_path, monkeypatch):
    page = ROOT / ("README.md" if name == "README" else f"docs/{name}.md")
    write_boxed(tmp_path)
    monkeypatch.chdir(tmp_path)
    names = theory_names()
    before = jax.config.jax_enable_x64
    try:
        for code, is_marked in python_of(page):
            if not is_marked:
                exec(code, names)
    finally:
        jax.config.update("jax_enable_x64", before)  # theory.md turns it on
    EXPECTED[name](names)


def of_readme(names):
    assert bool(names["best"].converged) and names["robust"].shape == (16,)


def of_models(names):
    images = np.full((2, 32, 32, 3), 0.5, np.float32)
    for make in ("network", "linear"):
        assert names[make]().logits(images).shape == (2, 10)
    assert names["network"]().features(images).shape == (2, 16)


def of_own_data(names):
    (path,) = Path("boxed").glob("*/*/*_mask.png")
    mask = np.asarray(Image.open(path)) > 0
    assert mask.shape == (40, 60) and mask[10:30, 15:45].all() and mask.sum() == 20 * 30


def of_theory(names):
    assert names["best"].theta.dtype == np.float64 and bool(names["best"].converged)
    assert names["predicted"].nfs.shape == (3,)
    reliance = names["reliance"].nfs
    assert np.all(reliance.low <= reliance.value) and np.all(reliance.value <= reliance.high)


EXPECTED = {"README": of_readme, "models": of_models, "own_data": of_own_data, "theory": of_theory}


def test_every_block_of_python_is_run_or_says_why_not():
    pages = {p.stem for p in PAGES if any(not is_marked for _, is_marked in python_of(p))}
    assert pages == {*EXPECTED, "CONTRIBUTING"}


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
