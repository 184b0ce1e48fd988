"""Who may import whom (DESIGN.md section 2), and what must not appear where."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "advspur"
FILES = sorted(PACKAGE.rglob("*.py"))
L0 = {
    "_checks",
    "_constants",
    "_convolutions",
    "_devices",
    "_files",
    "_inert_pickle",
    "_progress",
    "intervals",
    "metrics",
    "norms",
    "records",
}
# For each part, the parts below it that its files may import; its own files always may.
ALLOWED = {
    "": set(),
    "_checks": set(),
    "_constants": set(),
    "_convolutions": set(),
    "_devices": {"_checks"},
    "_files": {"_checks"},
    "_inert_pickle": {"_checks"},
    "_progress": {"_checks"},
    "norms": {"_checks"},
    "intervals": set(),
    "records": {"_checks", "intervals"},
    "metrics": {"_checks", "intervals"},
    "theory": {"_checks", "norms"},
    "attacks": L0,
    "models": L0,
    "data": L0,
    "predict": L0 | {"models", "data"},
    "measures": L0 | {"attacks", "data", "predict"},
    "heads": L0 | {"models", "data", "predict"},
    "training": L0 | {"attacks", "models", "data"},
    "benchmarks": L0 | {"models", "data", "heads", "measures"},
    "report": {"_checks", "_files", "intervals", "records"},
}


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(source, module, is_package=False):
    """Full names of all that `source`, the text of `module`, imports (at any depth)."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                parents = parents[: len(parents) - node.level + is_package]
                base = ".".join([*parents, base] if base else parents)
            found.add(base)
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def part_of(name):
    """advspur.data.table -> data; advspur -> ""."""
    return (name.split(".") + [""])[1]


def bad_edges(source, module, is_package=False):
    part = part_of(module)
    bad = []
    for name in sorted(imported_modules(source, module, is_package)):
        if name.split(".")[0] != "advspur":
            continue
        target = part_of(name)
        # advspur.__version__ and the bare package are open to all.
        if target in ("", "__version__", part) or target in ALLOWED[part]:
            continue
        rest = name.removeprefix("advspur.")
        below = [a for a in ALLOWED[part] if a.split(".")[0] == target]
        if not any(rest == a or rest.startswith(a + ".") for a in below):
            bad.append(f"{module} -> {name}")
    return bad


def test_every_file_belongs_to_a_known_part():
    assert len(FILES) > 20
    assert {part_of(module_name(path)) for path in FILES} <= set(ALLOWED)


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_go_down(path):
    is_package = path.name == "__init__.py"
    assert bad_edges(path.read_text(), module_name(path), is_package) == []


@pytest.mark.parametrize(
    "module, source",
    [
        ("advspur.norms", "from advspur.attacks import pgd"),
        ("advspur.norms", "def f():\n    import advspur.records"),
        ("advspur._checks", "from advspur import norms"),
        ("advspur.attacks.pgd", "from advspur.models import Classifier"),
        ("advspur.attacks.pgd", "from ..models import Classifier"),
        ("advspur.data.batches", "from advspur import attacks"),
        ("advspur.theory.solve", "from advspur.records import Record"),
        ("advspur.training.loop", "from advspur.heads import probes"),
        ("advspur.measures.groups", "from advspur.heads import probes"),
        ("advspur.heads.probes", "from advspur.measures import accuracy"),
        ("advspur.predict", "from advspur.attacks import pgd"),
        ("advspur.benchmarks.runner", "from advspur.training import train"),
        ("advspur.benchmarks.runner", "from advspur.training.loop import train"),
        ("advspur.report.page", "from advspur.norms import lp_norm"),
    ],
)
def test_the_checker_sees_bad_edges(module, source):
    assert bad_edges(source, module) != []


@pytest.mark.parametrize(
    "module, source",
    [
        ("advspur.training.loop", "from advspur.data.batches import shard\nimport numpy"),
        ("advspur.training.loop", "from . import step\nfrom ..models import load"),
        ("advspur.records", "import advspur\nfrom advspur import __version__"),
        ("advspur.report.page", "from advspur.records import read_records"),
        ("advspur.benchmarks.table", "from advspur.heads import probes"),
    ],
)
def test_the_checker_passes_good_edges(module, source):
    assert bad_edges(source, module) == []


def files_with(pattern):
    return {
        str(path.relative_to(PACKAGE))
        for path in FILES
        if re.search(pattern, path.read_text(), flags=re.MULTILINE)
    }


def test_pmap_appears_in_the_training_step_only():
    assert files_with(r"\bpmap\(|jax\.pmap|import pmap") == {"training/step.py"}


def test_jaxopt_is_imported_by_the_theory_solver_only():
    assert files_with(r"^\s*(import|from) jaxopt") <= {"theory/solve.py"}


def test_nothing_of_a_file_is_executed():
    calls = r"pickle\.loads?\b|(?<![\w.])(eval|exec)\("
    assert files_with(rf"{calls}|^\s*(import|from) c?[Pp]ickle\b") == set()


def test_files_stay_short():
    lengths = {module_name(path): len(path.read_text().splitlines()) for path in FILES}
    assert {name: n for name, n in lengths.items() if n > 300} == {}


def test_importing_the_package_stays_light():
    heavy = ("grain", "tensorflow_datasets", "jaxopt", "matplotlib", "tensorflow", "torch")
    program = (
        "import sys, advspur, advspur.norms, advspur.attacks, advspur.models, advspur.data\n"
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ, check=True
    )
    assert out.stdout.strip() == "[]"
