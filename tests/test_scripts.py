"""The scripts as a user calls them: exit codes, single lines, going on, doing nothing twice."""

import functools
import hashlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import _cli
import _predictions
import jax
import numpy as np
import pytest
import reproduce
from ml_collections import ConfigDict
from seeded import state_dict

from advspur import models
from advspur._checks import InputError
from advspur._files import locked
from advspur.data import spurious_shapes
from advspur.models import resnet
from advspur.training.run_dir import describe_attack
from configs import remedies, theory_to_networks
from tests import forked

ROOT = Path(__file__).resolve().parents[1]
TINY = "tests/training/tiny_config.py"

SUITE = """
from ml_collections import ConfigDict

from configs import quickstart, remedies


def get_config():
    config = quickstart.get_config()
    with config.unlocked():
        config.suite.recipes = ConfigDict(remedies.recipes())
        config.suite.trained = ("rest_only_l2",)
    config.shapes.num_train = 64
    config.shapes.num_validation = 16
    config.shapes.image_size = 16
    config.batch_size = 16
    config.num_steps = 3
    config.attack.num_steps = 1
    config.validation.num_steps = 1
    config.validation.epsilon = 0.0
    config.suite.theory = ("nfs",)
    config.suite.l2_epsilons = (0.5,)
    config.suite.linf_epsilons = ()
    config.evaluation.batch_size = 16
    config.evaluation.measures = ("pgd", "regions", "background_gaps", "accuracy", "groups")
    config.evaluation.data.num_examples = 24
    config.evaluation.pgd.num_attacked = 8
    config.evaluation.pgd.num_steps = 1
    config.evaluation.pgd.linf_epsilons = ()
    config.evaluation.regions.num_attacked = 4
    config.evaluation.regions.attack_steps = 1
    config.evaluation.regions.linf_epsilons = ()
    return config
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """(script, *arguments) -> (exit code, stdout, stderr)."""
    monkeypatch.setattr(resnet, "ARCHITECTURES", resnet.ARCHITECTURES | forked.SHALLOW)
    return functools.partial(forked.run, tmp_path / "said")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config=configs/l2_eps3.py", "--config.data_dir={tmp}"],
            "no imagenet2012 data in {tmp}. Accepted layouts: {tmp}/imagenet2012/<version>/ (TFDS "
            "array_record) or {tmp}/imagenet2012/{{train,val}}/<class>/<image>.JPEG. Prepare the "
            "first with: python scripts/prepare_data.py tfds imagenet2012 --data_dir {tmp} ; or "
            "name a different folder with --config.data_dir=DIR, or use the embedded data with "
            "--config.dataset=spurious_shapes",
        ),
        (["--config=configs/nope.py"], "no config file"),
        ([f"--config={TINY}", "--config.attack.epsilon=8/0"], "divides by zero"),
        ([], "Flag --config must have a value"),
        ([f"--config={TINY}", "--config.learning_rat=1"], "arch, attack.epsilon, attack.loss"),
        ([f"--config={TINY}", "--config.batch_size=many"], "many"),
        ([f"--config={TINY}", "--config.attack.p=3"], "the norm must be one of 1, 2, inf"),
        ([f"--config={TINY}", "surplus"], "unexpected argument 'surplus'"),
        ([f"--config={TINY}", "--workdir=setup.cfg"], "setup.cfg is a file"),
    ],
)
def test_mistakes_end_in_one_line_and_exit_code_2(run, tmp_path, arguments, message):
    arguments = [a.format(tmp=tmp_path) for a in arguments]
    workdir = [] if any("workdir" in a for a in arguments) else [f"--workdir={tmp_path / 'run'}"]
    code, _, err = run("train", *arguments, *workdir)
    assert code == 2, err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and message.format(tmp=tmp_path) in lines[0], err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.dtype=float16", "allowed: 'float32', 'float64'"),
        ("--config.num_epsilons=1", "it must be a whole number >= 2"),
        ("--config.norms=0.5,", "the norm must be a number in [1, inf]"),
        ("--config.theta_opt=1.0,1.0", "expected (5,)"),
        ("--config.etas=nan,", "etas = ('nan,',): it must be a list of numbers"),
    ],
)
def test_mistakes_in_a_theory_config(run, tmp_path, argument, message):
    arguments = ("--config=configs/theory_nfs.py", argument, f"--workdir={tmp_path / 'run'}")
    code, _, err = run("theory", *arguments)
    assert code == 2 and message in err and "Traceback" not in err, err
    assert not list(tmp_path.glob("run/theory*"))


@pytest.fixture
def kept_in():
    """Workdir -> where programs are kept; afterwards they are kept as before."""
    names = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
    before = {name: getattr(jax.config, name) for name in names}

    def kept(workdir):
        _cli.use_compile_cache(workdir)
        return Path(jax.config.jax_compilation_cache_dir)

    yield kept
    for name, value in before.items():
        jax.config.update(name, value)


def test_programs_are_kept_for_the_user_and_where_that_cannot_be_for_the_run(
    tmp_path, monkeypatch, kept_in
):
    before = jax.config.jax_compilation_cache_dir
    assert str(kept_in(tmp_path / "run")) == before  # that of the environment
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert kept_in(tmp_path / "run") == tmp_path / "caches" / "advspur" / "xla"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert kept_in(tmp_path / "run") == tmp_path / ".cache" / "advspur" / "xla"

    def no_home():
        raise RuntimeError

    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # nothing can be below it
    assert kept_in(tmp_path / "run") == tmp_path / "run" / "xla_cache"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    assert kept_in(tmp_path / "run") == tmp_path / "run" / "xla_cache"


def test_the_oldest_programs_go_when_there_are_too_many(tmp_path, monkeypatch, kept_in):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = kept_in(tmp_path)
    for age, name in enumerate("abcd"):
        (folder / name).write_bytes(bytes(4))
        os.utime(folder / name, (0, 1000 - age))
    (folder / "folder").mkdir()  # as XLA makes for GPUs
    monkeypatch.setattr(_cli, "CACHE_SIZE", 9)
    kept_in(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b", "folder"]


def test_a_suite_that_cannot_be_is_refused_before_anything_is_written(run, tmp_path):
    workdir = tmp_path / "suite"
    given = ["--config=configs/quickstart.py", "--config.attack.method=free"]
    code, _, err = run("reproduce", *given, f"--workdir={workdir}")
    assert code == 2 and "'free' is not for suites" in err, err
    assert not workdir.exists()


def test_suite_is_reproduced_resumed_and_then_left_alone(run, tmp_path):
    config = tmp_path / "suite.py"
    config.write_text(SUITE)
    arguments = [f"--config={config}", f"--workdir={tmp_path / 'suite'}"]
    code, out, err = run("reproduce", *arguments)
    assert code == 0, err
    assert "report.html: 3 models, 219 new numbers" in out
    records = tmp_path / "suite" / "records.jsonl"
    page = (tmp_path / "suite" / "report.html").read_text()
    assert len(list((tmp_path / "suite" / "figures").glob("*.png"))) == 10
    assert page.count("data:image/png;base64,") == 10
    for model in ("standard_seed0", "l2_eps0.5_seed0", "rest_only_l2_seed0"):
        assert f"<summary>{model}</summary>" in page

    # The recipe was prescribed first, and is held against the uniform attack of its budget.
    told = json.loads((tmp_path / "suite" / "prescription.json").read_text())["models"]
    assert {tuple(m["region_weights"]) for m in told} > {(0, 1), (1, 1), (1, 2)}
    recipe = json.loads((tmp_path / "suite" / "rest_only_l2_seed0" / "model.json").read_text())
    assert recipe["recipe"]["region_weights"] == [0.0, 1.0]
    assert recipe["recipe"]["uniform_epsilon"] == pytest.approx(0.5, rel=0.02)
    assert "ℓ2 0.5, object : rest = 0 : 1: relies less on the background." in page

    # Stopped within the last measure of the last model: its end mark is missing.
    lines = records.read_text().splitlines(keepends=True)
    end = max(i for i, line in enumerate(lines) if '"complete"' in line)
    records.write_text("".join(lines[:end])[:-20])
    code, out, _ = run("reproduce", *arguments)
    assert code == 0 and f"3 models, {json.loads(lines[end])['value']} new numbers" in out, out

    before = records.read_bytes()
    code, out, _ = run("reproduce", *arguments)
    assert code == 0 and "3 models, no new numbers" in out
    assert records.read_bytes() == before

    run_dir = tmp_path / "suite" / "l2_eps0.5_seed0"
    evaluate = [
        "--config=configs/evaluate.py",
        "--config.options.spurious_shapes.data.num_examples=16",
        "--config.measures=accuracy,groups",
        "--config.batch_size=16",
        f"--workdir={tmp_path / 'evaluation'}",
        run_dir,
    ]
    code, _, err = run("evaluate", *evaluate)
    assert code == 0 and "l2_eps0.5_seed0 on spurious_shapes: 8 new numbers" in err, err
    code, out, err = run("report", tmp_path / "evaluation")
    assert code == 0 and out.strip().endswith("report.html"), err


def test_predictions_come_before_the_networks_and_are_held_against_them(run, tmp_path):
    workdir = tmp_path / "told"
    small = {
        "suite.settings": "fixed_base,varied_all",
        "suite.seeds": "0,",
        "suite.l2_epsilons": "0.25,",
        "suite.linf_epsilons": "2/255,",
        "shapes.num_train": 64,
        "shapes.num_validation": 16,
        "shapes.image_size": 16,
        "batch_size": 16,
        "num_steps": 3,
        "validation.num_steps": 1,
        "evaluation.batch_size": 16,
        "evaluation.data.num_examples": 24,
    }
    arguments = forked.flags("theory_to_networks", workdir, small)
    code, out, err = run("reproduce", *arguments)
    assert code == 0, err
    assert "report.html: 6 models, 72 new numbers" in out, out
    path = workdir / "predictions.json"
    settings = json.loads(path.read_text())["settings"]
    assert len(settings) == 12 and {"fixed_base", "varied_all"} < settings.keys()
    assert settings["varied_all"]["dials"]["correlation"] == 0.9
    assert {len(facts["models"]) for facts in settings.values()} == {3}
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    trained = list(workdir.glob("*/*/metrics.jsonl"))
    assert len(trained) == 6
    assert all(path.stat().st_mtime_ns <= log.stat().st_mtime_ns for log in trained)
    page = (workdir / "report.html").read_text()
    assert digest in page and "2 settings, 3 kinds of training, 1 seed." in page
    assert "Left out because networks are missing: fixed_all, fixed_correlated, " in page

    code, out, _ = run("reproduce", *arguments)
    assert code == 0 and "6 models, no new numbers" in out


def test_predictions_are_never_made_afterwards(tmp_path):
    def told(nfs):
        found, every = {"a": [{"nfs": nfs}]}, [("fixed_base/standard_seed0", None)]
        _predictions.write("predictions.json", found, every, tmp_path)

    path, network = tmp_path / "predictions.json", tmp_path / "fixed_base" / "standard_seed0"
    for nfs in (0.25, 0.250001):  # rounding
        told(nfs)
        assert json.loads(path.read_text()) == {"a": [{"nfs": 0.25}]}
    for nfs in (0.26, None):
        with pytest.raises(InputError, match="predictions are not changed afterwards"):
            told(nfs)
    assert "0.25" in path.read_text()
    path.unlink()
    network.mkdir(parents=True)
    with pytest.raises(InputError, match="fixed_base/standard_seed0 is there: a prediction comes"):
        told(0.25)
    assert not path.exists()


def test_recipes_that_cannot_be_are_refused():
    config = remedies.get_config()
    config.suite.trained = ("rest_only", "nothing")
    with pytest.raises(InputError, match="suite.trained = 'nothing' is not known"):
        list(reproduce.suite_configs(config))
    for change in ({"attack": {"hue": 1.0}}, {"attack": {"epsilon": "a"}}, {"batch": 1}):
        with config.unlocked():
            config.suite.recipes = ConfigDict({"rest_only": change})
        config.suite.trained = ("rest_only",)
        with pytest.raises(InputError, match="suite.recipes.rest_only = "):
            list(reproduce.suite_configs(config))


def test_the_share_of_the_objects_is_what_the_config_says():
    shapes = remedies.get_config().shapes.to_dict()
    del shapes["num_train"], shapes["num_validation"]
    areas = spurious_shapes("train", num_examples=800, **shapes).columns["mask"].mean((1, 2, 3))
    assert abs(areas.mean() - remedies.AREA) < 3 * areas.std() / math.sqrt(800)


@pytest.mark.parametrize(
    "change, message",
    (
        ({"settings": ("base",)}, "suite.settings = 'base'"),
        ({"dials": {"base": {"hue": 1.0}}}, "a dial of suite.dials.base = 'hue'"),
        ({"dials": {"base": {"noise_std": "a"}}}, "base.noise_std = 'a': expected float"),
    ),
)
def test_settings_that_cannot_be(change, message):
    config = theory_to_networks.get_config()
    with config.unlocked():
        config.suite.update({"settings": ("base",)} | change)
    with pytest.raises(InputError, match=message):
        list(reproduce.suite_configs(config))


def test_a_suite_without_models_is_refused(run, tmp_path):
    given = ["--config=configs/quickstart.py", "--config.suite.seeds=", f"--workdir={tmp_path}"]
    code, _, err = run("reproduce", *given)
    assert code == 2 and "the suite has no model" in err, err


@pytest.mark.parametrize(
    ("given", "understood"),
    [
        ("--config.attack.epsilon=8/255", f"--config.attack.epsilon={8 / 255!r}"),
        ("--config.suite.linf_epsilons=1/255,2/255", None),
        ("--config.data_dir=/a/1/2", "--config.data_dir=/a/1/2"),
        ("--workdir=1/2", "--workdir=1/2"),
    ],
)
def test_fractions_are_of_numbers_only(given, understood):
    expected = understood or f"--config.suite.linf_epsilons={1 / 255!r},{2 / 255!r}"
    assert (_cli._divide(given) if _cli.FRACTIONS.match(given) else given) == expected
    text = "linf, epsilon = 8/255 = 0.03137 in [0, 1] pixel units"
    assert describe_attack(p=math.inf, epsilon=8 / 255) == text


def test_report_of_a_directory_without_records(run, tmp_path):
    code, _, err = run("report", tmp_path)
    assert code == 2 and "holds no records" in err


def test_evaluate_of_what_is_no_run(run, tmp_path):
    code, _, err = run(
        "evaluate", "--config=configs/evaluate.py", f"--workdir={tmp_path / 'e'}", tmp_path
    )
    assert code == 2 and "is neither a training run nor a converted" in err


def start_two(folder, *arguments):
    """Two processes with two devices each that train together."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    together = [f"--coordinator=localhost:{port}", "--num_processes=2"]
    command = ["train", *arguments, *together]
    return [
        forked.start(folder / str(i), *command, f"--process_id={i}", devices=2) for i in range(2)
    ]


def test_two_processes_train_as_one_and_resume_after_one_is_killed_or_terminated(run, tmp_path):
    config = [f"--config={TINY}", "--config.num_steps=10", "--config.validation.every_steps=10"]
    config += ["--config.checkpoint_every_steps=3", "--config.attack.epsilon=1/4"]
    checkpoints, said = tmp_path / "two" / "checkpoints", tmp_path / "said"
    first, second = start_two(said, *config, f"--workdir={tmp_path / 'two'}")
    while not any(path.name.isdigit() for path in checkpoints.glob("*")):  # a whole one
        assert first.is_alive() and second.is_alive()
        time.sleep(0.001)
    second.kill()
    first.join(60)  # it ends, and says why in one line
    assert first.exitcode not in (0, None)
    for _ in range(100):  # a child says it after its end
        text = (said / "0" / "err").read_text()
        if "error: " in text:
            break
        time.sleep(0.1)
    assert text.count("error: ") == 1 and "Traceback" not in text, text
    assert "lost contact with another process" in text and "restart all of them" in text

    log = tmp_path / "two" / "metrics.jsonl"
    before = log.read_text().count("loss") if log.exists() else 0
    first, second = start_two(said, *config, f"--workdir={tmp_path / 'two'}")
    while not log.exists() or log.read_text().count("loss") <= before:
        assert first.is_alive() and second.is_alive()
        time.sleep(0.001)
    second.terminate()  # both stop at the same step, and save
    first.join(60)
    second.join(60)
    text = (said / "0" / "err").read_text()
    assert first.exitcode == second.exitcode == 130 and "stopped and saved at step" in text, text

    for process in (processes := start_two(said, *config, f"--workdir={tmp_path / 'two'}")):
        process.join(500)
    first, second = ((said / str(i) / "err").read_text() for i in range(2))
    assert [process.exitcode for process in processes] == [0, 0], first + second
    assert "resuming at step" in first and second == "", first + second  # one of them talks

    code, _, err = run("train", *config, f"--workdir={tmp_path / 'one'}")
    assert code == 0 and "l2, epsilon = 0.25 in [0, 1] pixel units, 10 steps" in err, err
    one, two = (
        np.concatenate([x.ravel() for x in jax.tree.leaves(models.load(tmp_path / n).params)])
        for n in ("one", "two")
    )
    # Sums in another order: what 10 steps make of rounding, against what they make of the weights
    assert np.linalg.norm(one - two) < 0.05 * np.linalg.norm(one)
    steps = [
        [json.loads(x)["step"] for x in (tmp_path / n / "metrics.jsonl").read_text().splitlines()]
        for n in ("one", "two")
    ]
    assert steps[0] == steps[1]


def test_an_abort_is_told_and_signals_to_the_group_are_not_its_business():
    """As JAX ends a process that has lost the others; and Ctrl-C, which a terminal sends to all."""
    program = (
        "import os, signal, sys, _processes\n"
        "signal.signal(signal.SIGINT, lambda *_: None)\n"
        "with _processes._last_words():\n"
        "    os.write(2, b'a stack trace'); print('said by Python', file=sys.stderr)\n"
        "    os.killpg(0, signal.SIGINT)\n"
        "    {}\n"
        "print('after', file=sys.stderr)"
    )
    for end, code, last in (
        ("os.abort()", -signal.SIGABRT, "error: this process has ended"),
        ("pass", 0, "after"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", program.format(end)],
            cwd=ROOT / "scripts",
            capture_output=True,
            text=True,
            start_new_session=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        lines = done.stderr.splitlines()
        assert lines[0] == "said by Python" and len(lines) == 2, done.stderr
        assert lines[1].startswith(last)


def test_processes_that_do_not_come_together_are_told(run, tmp_path):
    workdir = f"--workdir={tmp_path / 'run'}"
    for flags, message in (
        (["--num_processes=2"], "several processes need --coordinator=HOST:PORT of process 0"),
        (
            ["--coordinator=localhost:1", "--num_processes=2", "--process_id=2"],
            "process_id = 2: it must be from 0 to 1",
        ),
        (["--coordinator=auto"], "cannot connect to the other processes at auto"),
    ):
        code, _, err = run("train", f"--config={TINY}", workdir, *flags)
        assert code == 2 and message in err and "Traceback" not in err, err
    assert not (tmp_path / "run").exists()


def test_a_workdir_that_is_written_to_is_refused(run, tmp_path):
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run"):
        code, _, err = run("train", f"--config={TINY}", f"--workdir={tmp_path / 'run'}")
    assert code == 2 and f"another process is writing to {tmp_path / 'run'}" in err, err
    assert [p.name for p in (tmp_path / "run").iterdir()] == [".lock"]


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="a small disk is mounted, as root on Linux"
)
def test_a_disk_that_fills_while_a_checkpoint_is_written_ends_in_one_line(run, tmp_path):
    """There is room for what is saved, as counted before, but not for what orbax adds to it."""
    (tmp_path / "disk").mkdir()
    arguments = [f"--config={TINY}", "--config.checkpoint_every_steps=2"]
    arguments += ["--config.attack.epsilon=0", "--config.keep_last=50"]
    arguments += [f"--workdir={tmp_path / 'disk' / 'run'}"]
    mounted = ["mount", "-t", "tmpfs", "-o", "size=2500k", "tmpfs", tmp_path / "disk"]
    if subprocess.run(mounted, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        code, _, err = run("train", *arguments, networks={})
        assert code == 2 and "Traceback" not in err, err
        assert "error: No space left on the disk" in err.splitlines()[-1]
        saved = models.store.latest_step(tmp_path / "disk" / "run")
        subprocess.run(["mount", "-o", "remount,size=99m", tmp_path / "disk"], check=True)
        code, _, err = run("train", *arguments, networks={})
        assert code == 0 and f"resuming at step {saved}" in err, err
        assert models.store.latest_step(tmp_path / "disk" / "run") == 12
    finally:
        subprocess.run(["umount", "--lazy", tmp_path / "disk"], check=True)


def test_prepare_data_says_what_it_takes(run, tmp_path):
    code, _, err = run("prepare_data")
    assert code == 2 and "tfds NAME, or arrays FILE.npz NAME, or check NAME DIR" in err
    code, _, err = run("prepare_data", "arrays", tmp_path / "absent.npz", "mine")
    assert code == 2 and "no file" in err


def test_a_checkpoint_is_converted_and_evaluated_by_its_file_name(run, tmp_path):
    source = tmp_path / "resnet18_linf_eps4.0.ckpt"
    with open(source, "wb") as file:
        np.savez(file, **state_dict("resnet18", num_classes=8))
    code, _, err = run("convert_checkpoint", source, "--mean=0.5,0.5,x", "--std=0.2,0.2,0.2")
    assert code == 2 and "the normaliser has mean ['0.5', '0.5', 'x']" in err, err
    code, out, err = run("convert_checkpoint", source, f"--models_dir={tmp_path}")
    assert code == 0 and "holds no normaliser: ImageNet's mean" in err, err
    for words in (
        "resnet18, 8 classes",
        "102 used, 20 dropped by rule",
        "linf, epsilon = 0.015686",
    ):
        assert words in out
    assert (tmp_path / "resnet18_linf_eps4.0" / "model.safetensors").is_file()
    code, _, err = run("convert_checkpoint", source, f"--out={tmp_path}")
    assert code == 2 and "is not a converted model" in err
    flags = f"--workdir={tmp_path / 'e'}", f"--config.models_dir={tmp_path}"
    for given, words in (
        (["resnet18_linf_eps4"], "nothing to measure; see the messages above"),
        ([], f"skipped: 21 of 22 models are not in {tmp_path}: resnet18_l2_eps0, resnet18_l2_eps0"),
    ):
        code, _, err = run("evaluate", "--config=configs/evaluate.py", *flags, *given)
        assert code == 2 and words in err
    other = source.rename(tmp_path / "mine.npz")
    code, out, err = run("convert_checkpoint", other, f"--out={tmp_path / 'mine'}")
    assert code == 0 and "unknown" in out, err  # how it was trained stays open
    code, out, err = run(
        "convert_checkpoint", other, f"--out={tmp_path / 'mine'}", "--train_p=inf",
        "--train_epsilon=8/255",
    )  # fmt: skip
    assert code == 0 and "linf, epsilon = 0.031373" in out, err
