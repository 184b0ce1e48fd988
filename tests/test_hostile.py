"""What users of such tools get wrong, as tables: one line that says what is wrong, before any work.

Hostile pictures, arrays, tables, checkpoints, models and folders stand beside the modules that
read them (tests/data, tests/test_prepare_data.py, tests/measures/test_not_finite.py, ...).
"""

import math
import os
import subprocess
import sys
import types
from pathlib import Path

import _cli
import _processes
import evaluate
import numpy as np
import pytest

from advspur._checks import InputError, check_seed
from advspur.benchmarks import BENCHMARKS
from advspur.data import inject_color_shift, spurious_shapes
from advspur.measures import MEASURES
from advspur.models import SUITE
from advspur.theory import run as theory
from advspur.training.run_dir import check_config
from configs import default

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = {  # the text of a config file -> what is said
    "nothing": ("", " has no function get_config()"),
    "another name": ("def config():\n    pass\n", " has no function get_config()"),
    "a syntax error": ("x = 1\ndef get_config(:\n    pass\n", " line 2: SyntaxError: "),
    "an indentation": ("def get_config():\nreturn 3\n", " line 2: IndentationError: "),
    "tabs and spaces": ("if 1:\n\tx = 1\n        y = 2\n", "Error: "),
    "an open bracket": ("x = (1,\n", "SyntaxError: '(' was never closed"),
    "a missing import": ("import nothing_such\n", " line 1: ModuleNotFoundError: No module named"),
    "a missing name": (
        "from configs import nope\n", " line 1: ImportError: cannot import name 'nope'"
    ),
    "an error at the top": ("x = 1\n1 / 0\n", " line 2: ZeroDivisionError: division by zero"),
    "an error inside": ("def get_config():\n    return x\n", " line 2: NameError: name 'x'"),
    "an assertion": ("def get_config():\n    assert 0, 'no'\n", " line 2: AssertionError: no"),
    "a number": ("def get_config():\n    return 3\n", "get_config() returns 3; it must return"),
    "None": ("def get_config():\n    pass\n", "get_config() returns None; it must return a Config"),
    "a dict": ("def get_config():\n    return {'seed': 0}\n", "returns {'seed': 0}; it must"),
    "an argument": ("def get_config(x):\n    pass\n", "TypeError: get_config() missing 1 required"),
    "no function": ("get_config = 3\n", "TypeError: 'int' object is not callable"),
    "an unknown key": (
        "from configs import default\ndef get_config():\n    config = default.get_config()\n"
        "    config.learning_rat = 1\n    return config\n",
        " line 4: AttributeError: ",
    ),
    "an unknown nested key": (
        "from configs import default\ndef get_config():\n    config = default.get_config()\n"
        "    config.attack.steps = 1\n    return config\n",
        " line 4: AttributeError: ",
    ),
    "another type": (
        "from configs import default\ndef get_config():\n    config = default.get_config()\n"
        "    config.batch_size = 'many'\n    return config\n",
        " line 4: TypeError: ",
    ),
    "text in another code": ("x = '\udcff'\n", "Error: "),
    "an exit": ("import sys\nsys.exit(3)\n", " line 2: SystemExit: 3"),
    "an attribute at the top": ("import math\nmath.foo\n", " line 2: AttributeError: module"),
    "a null": ("x = '\0'\n", "Error: "),
}  # fmt: skip


def one_line(capsys, function, *args):
    """What a call that ends the program with 2 prints."""
    with pytest.raises(SystemExit) as ended:
        function(*args)
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1 and said.startswith("error: "), said
    return said


@pytest.mark.parametrize("kind", CONFIGS)
def test_config_files_with_mistakes(kind, tmp_path, capsys):
    text, message = CONFIGS[kind]
    file = tmp_path / "mine.py"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    said = one_line(capsys, _cli.load_config, str(file))
    assert f"config file {file}" in said and message in said, said


@pytest.mark.parametrize("name", ("absent.py", ".", "folder.py", "mine.json", "mine"))
def test_config_files_that_are_none(name, tmp_path, capsys):
    (tmp_path / "folder.py").mkdir()
    for file in ("mine.json", "mine"):
        (tmp_path / file).write_text("{}")
    said = one_line(capsys, _cli.load_config, str(tmp_path / name))
    assert "no config file" in said or "is not a Python file" in said, said


FITTING = {
    "training": [
        "quickstart",
        "theory_to_networks",
        "remedies",
        "robust_heads",
        *(f.stem for f in (ROOT / "configs").glob("[ls]*.py")),
    ],
    "suite": [
        "quickstart",
        "cifar10_color_shift",
        "theory_to_networks",
        "remedies",
        "robust_heads",
    ],
    "evaluation": ["evaluate"],
    "theory": ["theory_nfs", "theory_scale", "theory_shift", "theory_weights"],
}
FILES = [f.stem for f in (ROOT / "configs").glob("*.py") if f.stem not in ("l2_eps1", "l2_eps5")]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", FITTING)
def test_a_config_of_another_kind(kind, name, capsys):
    """Each of configs/ given to each script."""
    file = ROOT / "configs" / f"{name}.py"
    config = _cli.load_config(file)
    is_cifar = name.startswith("cifar10")
    if name in FITTING[kind] or (kind == "training" and (is_cifar or name == "default")):
        _cli._check_kind(config, file, kind)
        return
    said = one_line(capsys, _cli._check_kind, config, file, kind)
    assert f"{name}.py is not a {kind} config: it lacks the keys " in said and "; start" in said


@pytest.mark.parametrize("figure", ("sclae", 3, "../evaluate", "", None))
def test_a_figure_that_is_none_of_the_papers(figure, capsys):
    config = _cli.load_config(ROOT / "configs" / "theory_nfs.py")
    with config.unlocked(), config.ignore_type():
        config.figure = figure
    said = one_line(capsys, _cli._check_kind, config, "theory_nfs.py", "theory")
    assert "figure = " in said and "allowed: 'nfs', 'scale', 'shift', 'weights'" in said


def test_a_figure_whose_keys_the_file_lacks(capsys):
    config = _cli.load_config(ROOT / "configs" / "theory_nfs.py")
    config.figure = "scale"
    said = one_line(capsys, _cli._check_kind, config, "theory_nfs.py", "theory")
    assert "lacks the keys phase.etas, phase.scales, scales; start from configs/th" in said


SEEDS = (-1, 2**31, 2**32, 2**63, 2**70, 1.5, 3.0, "0", None, math.nan)


@pytest.mark.parametrize("seed", SEEDS)
def test_seeds_that_one_of_the_libraries_does_not_take(seed):
    message = "seed = .*: it must be a whole number from 0 to 2.31 - 1"
    config = default.get_config()
    config.dataset = "spurious_shapes"
    with config.unlocked(), config.ignore_type():
        config.seed = seed
    images, labels = np.zeros((2, 4, 4, 3), np.uint8), np.array([0, 1])
    for function in (
        lambda: check_seed("seed", seed),
        lambda: check_config(config),
        lambda: spurious_shapes("test", num_examples=8, seed=seed),
        lambda: inject_color_shift(images, labels, rho=1.0, seed=seed),
    ):
        with pytest.raises(InputError, match=message):
            function()


def test_the_largest_seed_is_taken():
    seed = 2**31 - 1
    check_seed("seed", seed)
    assert len(spurious_shapes("test", num_examples=8, seed=seed)) == 8


PLACES = (
    "nohost", "host:", ":1234", "host:port", "host:0", "host:65536", "host:-1", "host:1.5",
    "host:1234:", "host 1234", ":", "1234", "http://host", "host:１２３", "host:99999999",
)  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_places_where_no_process_can_be(place, monkeypatch):
    given = types.SimpleNamespace(coordinator=place, num_processes=2, process_id=0)
    monkeypatch.setattr(_processes.flags, "FLAGS", given)
    with pytest.raises(InputError, match="coordinator = .*: give HOST:PORT of process 0, or auto"):
        with _processes.joined():
            raise AssertionError("joined")


@pytest.mark.parametrize("number, index", ((0, 0), (-2, 0), (2, 2), (2, -1)))
def test_numbers_of_processes_that_cannot_be(number, index, monkeypatch):
    given = types.SimpleNamespace(coordinator="host:1", num_processes=number, process_id=index)
    monkeypatch.setattr(_processes.flags, "FLAGS", given)
    with pytest.raises(InputError, match="num_processes = |process_id = "):
        with _processes.joined():
            raise AssertionError("joined")


OPTIONS = [  # benchmark, what the options belong to, options -> what is said before the data
    ("rival10", "regions", {"mask": "hard"}, "mask = 'hard' is not known"),
    ("rival10", "head", {"learning_rate": -1.0}, "learning_rate = -1.0: it must be finite and >="),
    ("rival10", "head", {"learning_rate": math.nan}, "learning_rate = nan: it must be finite"),
    ("rival10", "head", {"weight_decay": math.inf}, "weight_decay = inf: it must be finite"),
    ("rival10", "head", {"num_epochs": 0}, "num_epochs = 0: it must be a whole number >= 1"),
    ("rival10", "head", {"num_epochs": 1.5}, "num_epochs = 1.5: it must be a whole number >= 1"),
    ("rival10", "head", {"batch_size": 0}, "batch_size of the head = 0"),
    ("rival10", "head", {"held_out": 1.0}, "held_out = 1.0: it must be between 0 and 1"),
    ("waterbirds", "head", {"sensitivity_learning_rates": 1e-3}, "learning_rates = 0.001"),
    ("waterbirds", "head", {"sensitivity_learning_rates": (1e-3, math.nan)}, "rates = .*nan"),
    ("waterbirds", "head", {"batch_size": -3}, "batch_size of the head = -3"),
    ("salient_imagenet", "regions", {"dilation_rounds": 1.5}, "dilation_rounds = 1.5: it must"),
    ("salient_imagenet", "regions", {"dilation_rounds": -1}, "dilation_rounds = -1"),
    ("salient_imagenet", "regions", {"spurious_region": "rest"}, "spurious_region = 'rest' is n"),
    ("imagenet9", "challenge", {"num_backgrounds": 1.5}, "num_backgrounds = 1.5"),
    ("imagenet9", "challenge", {"num_backgrounds": -1}, "num_backgrounds = -1"),
    ("spurious_shapes", "data", {"num_examples": 0}, "num_examples = 0: it must be a whole num"),
    ("spurious_shapes", "data", {"num_examples": 10.5}, "num_examples = 10.5"),
    ("spurious_shapes", "regions", {"trials": 1.5}, "regions.trials = 1.5: it must be a whole"),
    ("spurious_shapes", "regions", {"num_attacked": -1}, "regions.num_attacked = -1"),
    ("spurious_shapes", "regions", {"l2_epsilons": 0.5}, "regions.l2_epsilons = 0.5: give a l"),
    ("spurious_shapes", "pgd", {"num_attacked": 0}, "num_attacked = 0: it must be a whole numb"),
    ("spurious_shapes", "pgd", {"num_steps": 2.5}, "num_steps = 2.5"),
    ("spurious_shapes", "pgd", {"start": "corner"}, "start = 'corner' is not known"),
    ("spurious_shapes", "pgd", {"l2_epsilons": (0.1, -0.1)}, "l2_epsilons = .*: it must be fin"),
    ("spurious_shapes", "pgd", {"linf_epsilons": ("8/255",)}, "linf_epsilons = .*: give a list"),
    ("spurious_shapes", "pgd", {"linf_epsilons": 0.1}, "linf_epsilons = 0.1: give a list of nu"),
    ("cifar_color_shift", "pgd", {"l2_epsilons": (math.nan,)}, "l2_epsilons = .*: it must be fi"),
    ("cifar10", "autoattack", {"version": "fast"}, "version = 'fast' is not known"),
    ("cifar10", "autoattack", {"l1_epsilons": (math.inf,)}, "l1_epsilons = .*: it must be finit"),
    ("cifar10", "autoattack", {"l2_epsilons": ("x",)}, "l2_epsilons = .*: give a list of numbe"),
    ("imagenet", "autoattack", {"linf_epsilons": ()}, "no budget is given"),
    ("imagenet", "accuracy", {"subset": ()}, "imagenet has no option accuracy.subset; accuracy h"),
    ("imagenet", "robust", {}, "imagenet has no options 'robust'; it has data, head, accuracy"),
    (
        "waterbirds",
        "head",
        {"epochs": 2},
        "waterbirds has no option head.epochs; head has balancing",
    ),
]


@pytest.mark.parametrize("benchmark, group, options, message", OPTIONS)
def test_options_that_no_evaluation_can_have(benchmark, group, options, message):
    row = BENCHMARKS[benchmark]
    measures = (group,) if group in MEASURES else row.measures
    with pytest.raises(InputError, match=message) as caught:
        row.plan("nowhere" if row.reader.directories else None, measures, {group: options})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "benchmark, measure, lacks",
    [
        ("spurious_shapes", "corruptions", "corruptions as parts"),
        ("spurious_shapes", "challenge", "the part original and only_bg_t"),
    ],
)
def test_measures_that_the_data_do_not_allow(benchmark, measure, lacks):
    with pytest.raises(InputError, match=f"be measured by {measure}: it lacks {lacks}"):
        BENCHMARKS[benchmark].plan(None, (measure,), {"data": {"num_examples": 16}})
    with pytest.raises(InputError, match="has no part tests; its parts are test, mixed_same"):
        options = {"data": {"num_examples": 16}, "pgd": {"parts": ("tests",)}}
        BENCHMARKS[benchmark].plan(None, ("pgd",), options)
    with pytest.raises(InputError, match="measures = 'robust' is not known; allowed: 'accuracy'"):
        BENCHMARKS[benchmark].plan(None, ("robust",), {})


def find(names, models_dir, monkeypatch, *, required=False, root=None):
    """(what is found, the lines told)."""
    monkeypatch.delenv("ADVSPUR_MODELS", raising=False)
    if root:
        monkeypatch.setenv("ADVSPUR_MODELS", str(root))
    lines = []
    found = evaluate.find_models(names, models_dir, required=required, line=lines.append)
    return found, lines


NAMES = tuple(model.name for model in SUITE)


def test_models_that_are_not_there_are_told_of_in_one_line(tmp_path, monkeypatch):
    unset = (
        r"none of the \d+ published models is found: set \$ADVSPUR_MODELS .or --config.models_dir"
    )
    with pytest.raises(InputError, match=unset):
        find(NAMES, "", monkeypatch)
    for given, root in ((str(tmp_path), None), ("", tmp_path)):
        with pytest.raises(InputError, match=f"published models is in {tmp_path}: set .ADVSPUR"):
            find(NAMES, given, monkeypatch, root=root)
    there = NAMES[3]
    (tmp_path / f"{there}.ckpt").write_bytes(b"x")
    found, lines = find(NAMES, str(tmp_path), monkeypatch)
    assert list(found) == [there] and len(lines) == 1
    others = [name for name in NAMES if name != there]
    head = f"skipped: {len(others)} of {len(NAMES)} models are not in {tmp_path}: "
    assert lines == [head + ", ".join(others)]
    with pytest.raises(InputError, match=f"{NAMES[0]} is not in"):
        find(NAMES, str(tmp_path), monkeypatch, required=True)


def test_other_models_of_a_config_that_are_not_there(tmp_path, monkeypatch):
    (tmp_path / "mine.pt").write_bytes(b"x")
    mine = str(tmp_path / "mine.pt")
    found, lines = find((mine, "yours"), "", monkeypatch)
    assert list(found) == [mine]
    assert len(lines) == 1 and lines[0].startswith("skipped: no model 'yours': neither a directory")
    with pytest.raises(InputError, match="no model: set .ADVSPUR_MODELS"):
        find(("yours",), "", monkeypatch)


THEORY = [  # figure, change -> what is said
    ("nfs", {"num_epsilons": 1}, "num_epsilons = 1: it must be a whole number >= 2"),
    ("nfs", {"noise_std": -0.1}, "noise_std = -0.1: it must be finite and >= 0"),
    ("nfs", {"etas": ()}, "etas = .*: it must be a list of numbers"),
    ("shift", {"seed": 10**20}, "seed = 1000"),
    ("shift", {"num_draws": 0}, "num_draws = 0"),
    ("shift", {"scales": (1.0, 2.0)}, "3 norms and 2 scales: give one scale for each norm"),
    ("shift", {"shift_stds": (0.0, 1.0)}, "shift_stds = .*: give .from, to, how many."),
    ("weights", {"weights": (0.0, 1.0, 9.0)}, "weights = .*: from and to must be > 0"),
    ("weights", {"weights": (0.1, 1.0)}, "weights = .*: give .from, to, how many."),
    ("scale", {"scales": (1.0,)}, "scales = .*: give .from, to, how many."),
    ("scale", {"scales": (0.5, 5.0, 2.5)}, "scales = .*: give .from, to, how many."),
    ("scale", {"scales": (0.5, 5.0, 0)}, "scales = .*: give .from, to, how many."),
]


@pytest.mark.parametrize("figure, change, message", THEORY)
def test_sweeps_that_cannot_be(figure, change, message):
    config = _cli.load_config(ROOT / "configs" / f"theory_{figure}.py")
    theory.check_config(config)
    with config.unlocked(), config.ignore_type():
        config.update(change)
    with pytest.raises(InputError, match=message):
        theory.check_config(config)


PROGRAMS = [  # script and arguments -> what is said
    (("train", "-config=configs/evaluate.py"), "evaluate.py is not a training config: it lacks "),
    (
        ("theory", "--config=configs/theory_nfs.py", "--config.figure=scale"),
        "it lacks the keys phas",
    ),
    (
        ("reproduce", "--config=configs/quickstart.py", "--config.suite.theory=nfs,foo"),
        "suite.theory = 'foo' is not known",
    ),
    (
        ("train", "--config=configs/quickstart.py", "--config.seed=2147483648"),
        "seed = 2147483648: it must be a whole number",
    ),
]


def test_the_programs_end_with_one_line_and_leave_nothing(tmp_path):
    """At once and together, as each takes seconds to start."""
    running = []
    for number, ((script, *arguments), _) in enumerate(PROGRAMS):
        command = [sys.executable, str(ROOT / "scripts" / f"{script}.py"), *arguments]
        command += [f"--workdir={tmp_path / str(number)}"]
        running.append(
            subprocess.Popen(
                command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ}
            )
        )
    for number, (process, (_, message)) in enumerate(zip(running, PROGRAMS, strict=True)):
        said = process.communicate()[1]
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert process.returncode == 2 and len(errors) == 1 and message in errors[0], said
        assert "Traceback" not in said and not (tmp_path / str(number)).exists()
