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
L0 = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "predict"}
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
    "theory": {"_checks", "norms", "intervals"},
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
            parents = module.split(".")
            parents = parents[: len(parents) - node.level + is_package] if node.level else []
            base = ".".join([*parents, *filter(None, [node.module])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


def part_of(name):
    """advspur.data.table -> data; advspur -> ""."""
    return (name.split(".") + [""])[1]


def bad_edges(source, module, is_package=False):
    part = part_of(module)
    open_to_all = {"", "__version__"}  # the bare package
    return {
        name
        for name in imported_modules(source, module, is_package)
        if name.split(".")[0] == "advspur"
        and part_of(name) not in ALLOWED[part] | {part} | open_to_all
    }


def test_every_file_belongs_to_a_known_part():
    assert len(FILES) > 20
    assert {part_of(module_name(path)) for path in FILES} <= set(ALLOWED)


def test_imports_go_down():
    bad = {
        path: bad_edges(path.read_text(), module_name(path), path.name == "__init__.py")
        for path in FILES
    }
    assert {path: edges for path, edges in bad.items() if edges} == {}


@pytest.mark.parametrize(
    "module, source, is_bad",
    [
        ("norms", "from advspur.attacks import pgd", True),
        ("norms", "def f():\n    import advspur.records", True),
        ("_checks", "from advspur import norms", True),
        ("attacks.pgd", "from ..models import Classifier", True),
        ("theory.solve", "from advspur.records import Record", True),
        ("measures.groups", "from advspur.heads import probes", True),
        ("heads.probes", "from advspur.measures import accuracy", True),
        ("benchmarks.runner", "from advspur.training.loop import train", True),
        ("report.page", "from advspur.norms import lp_norm", True),
        ("training.loop", "from advspur.data.batches import shard\nimport numpy", False),
        ("training.loop", "from . import step\nfrom ..models import load", False),
        ("records", "import advspur\nfrom advspur import __version__", False),
        ("benchmarks.table", "from advspur.heads import probes", False),
    ],
)
def test_the_checker_tells_bad_edges_from_good(module, source, is_bad):
    assert bool(bad_edges(source, f"advspur.{module}")) == is_bad


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
