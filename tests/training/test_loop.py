"""train(): resuming bit for bit, damaged checkpoints, runs that diverge or differ."""

import contextlib
import json
import os
import random
import shutil
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from advspur import models
from advspur._checks import InputError
from advspur._files import tree_digest
from advspur.records import read_records
from advspur.training import TrainingDiverged, TrainingStopped, loop, record_training, train
from advspur.training.loop import _stop_signals
from advspur.training.overfitting import _has_one_step_attack
from advspur.training.parts import step_passes
from tests import forked
from tests.training.tiny_config import get_config

# orbax drops the tasks of a damaged checkpoint with their event loop: noise, but unraisable.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

TINY = "--config=tests/training/tiny_config.py"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(workdir, final state) of a run that was never stopped."""
    workdir = tmp_path_factory.mktemp("runs") / "reference"
    return workdir, jax.device_get(train(get_config(), workdir))


def start(workdir, **options):
    """(a process that trains in `workdir`, the file of its stderr)."""
    output = workdir.with_name("output")
    return forked.start(output, "train", TINY, f"--workdir={workdir}", **options), output / "err"


def wait_for(process, condition):
    """Poll until `condition()`; the process must not end before."""
    while not condition():
        assert process.is_alive()
        time.sleep(0.001)


def logged(workdir):
    """The lines of its metrics.jsonl."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def remove_checkpoints(workdir, *steps):
    for step in steps:
        shutil.rmtree(workdir / "checkpoints" / str(step))


def assert_bitwise_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    different = [
        jax.tree_util.keystr(path)
        for (path, x), y in zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b), strict=True)
        if np.asarray(x).tobytes() != np.asarray(y).tobytes()
    ]
    assert not different


def test_a_run_that_is_terminated_and_then_killed_ends_with_the_same_bits(
    finished, tmp_path, capfd
):
    """It saves at SIGTERM with a message; SIGKILL comes at a random step, or while it saves."""
    workdir, log = tmp_path / "stopped", tmp_path / "stopped" / "metrics.jsonl"
    process, err = start(workdir)
    wait_for(process, lambda: log.exists() and log.read_text().count("loss") >= 2)
    process.terminate()
    process.join(300)
    assert process.exitcode == 130 and "stopped and saved at step" in err.read_text()
    step = models.store.latest_step(workdir)
    assert 2 <= step < 12 and f"saved at step {step} of 12" in err.read_text()

    def is_due():
        is_saving = any("tmp" in name for name in os.listdir(workdir / "checkpoints"))
        return log.read_text().count("loss") >= at_step or (while_saving and is_saving)

    chance = random.Random(os.getpid())
    at_step, while_saving = chance.randint(step + 1, 12), chance.random() < 0.5
    process, err = start(workdir)
    wait_for(process, lambda: f"resuming at step {step} of 12" in err.read_text() and is_due())
    process.kill()
    process.join()

    step = models.store.latest_step(workdir)
    assert_bitwise_equal(jax.device_get(train(get_config(), workdir)), finished[1])
    assert step == 12 or f"resuming at step {step} of 12" in capfd.readouterr().err
    steps, expected = ([line["step"] for line in logged(w)] for w in (workdir, finished[0]))
    assert steps == expected


def test_a_finished_run_is_left_alone_if_only_free_keys_differ(finished):
    workdir, state = finished
    before = (workdir / "metrics.jsonl").read_bytes()
    config = get_config()
    config.data_dir, config.num_workers, config.log_every_steps = "elsewhere", 1, 3
    assert_bitwise_equal(jax.device_get(train(config, workdir)), state)
    assert (workdir / "metrics.jsonl").read_bytes() == before


def test_run_writes_its_files(finished, tmp_path):
    workdir, state = finished
    config = json.loads((workdir / "config.json").read_text())
    assert config["config"]["attack"]["epsilon"] == 0.25
    assert config["environment"]["jax"] == jax.__version__
    lines = logged(workdir)
    assert [x["step"] for x in lines if "loss" in x] == list(range(1, 13))
    assert [x["step"] for x in lines if "val_pgd_accuracy" in x] == [6, 12]
    assert all("val_ema_clean_accuracy" in x for x in lines if "val_pgd_accuracy" in x)
    assert list((workdir / "tensorboard").glob("events*"))
    for _ in range(2):
        record_training(workdir, tmp_path / "records.jsonl")
    names = {r.metric: r.value for r in read_records(tmp_path / "records.jsonl")}
    assert names["seconds"] > 0 and names["peak_memory_mb"] > 50
    assert len((tmp_path / "records.jsonl").read_text().splitlines()) == 2
    assert int(state.step) == 12
    steps = {int(d.name) for d in (workdir / "checkpoints").iterdir() if d.name.isdigit()}
    assert {8, 12} <= steps and len(steps) <= 3  # the last two and the best


def test_load_gives_raw_averaged_and_best_weights(finished):
    workdir, state = finished
    raw, ema = models.load(workdir), models.load(workdir, weights="ema")
    assert_bitwise_equal(raw.params, state.variables)
    assert_bitwise_equal(ema.params, state.ema)
    scores = {x["step"]: x["val_pgd_accuracy"] for x in logged(workdir) if "val_pgd_accuracy" in x}
    best = [step for step, score in scores.items() if score == max(scores.values())]
    kept = [step for step in best if (workdir / "checkpoints" / str(step)).exists()]
    digest = tree_digest(models.load(workdir, step="best").params)
    assert digest in [tree_digest(models.load(workdir, step=step).params) for step in kept]


def test_load_names_what_is_missing(tmp_path, finished):
    with pytest.raises(InputError, match="is neither a training run nor .*model.json is missing"):
        models.load(tmp_path)
    with pytest.raises(InputError, match="no checkpoint of step 5; it has"):
        models.load(finished[0], step=5)


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_damaged_checkpoint_is_named_and_the_one_before_it_used(finished, tmp_path, damage, capfd):
    workdir = tmp_path / "damaged"
    shutil.copytree(finished[0], workdir)
    files = [f for f in (workdir / "checkpoints" / "12").rglob("*") if f.is_file()]
    data = max((f for f in files if "/d/" in str(f)), key=lambda f: f.stat().st_size)
    content = bytearray(data.read_bytes())
    if damage == "truncate":
        data.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        content[len(content) // 2] ^= 0xFF
        data.write_bytes(content)
    else:
        data.unlink()
    state = jax.device_get(train(get_config(), workdir))
    assert_bitwise_equal(state, finished[1])
    message = capfd.readouterr().err
    assert f"checkpoint {workdir / 'checkpoints' / '12'} is damaged" in message
    assert (workdir / "damaged_checkpoints").is_dir()
    assert models.store.latest_step(workdir) == 12  # trained again from the one before


@pytest.fixture
def pgd_accuracies(monkeypatch):
    """{step: simulated PGD accuracy} at validation; 0.3 at other steps."""
    shares = {}

    def validate(program, state):
        share = shares.get(int(state.step), 0.3)
        return {"val_clean_accuracy": 0.5, "val_pgd_accuracy": share}

    monkeypatch.setattr(loop, "_validate", validate)
    return shares


def test_a_run_ends_early_if_validation_gets_no_better(tmp_path, capfd, pgd_accuracies):
    config = get_config()
    config.validation.every_steps, config.early_stopping = 2, 2
    config.best_metric = "val_clean_accuracy"
    assert int(train(config, tmp_path / "run").step) == 6
    err = capfd.readouterr().err
    assert "ends at step 6: val_clean_accuracy was not better in 2 validations" in err
    log = logged(tmp_path / "run")
    assert int(train(config, tmp_path / "run").step) == 6  # and is left alone
    assert logged(tmp_path / "run") == log
    remove_checkpoints(tmp_path / "run", 4, 6)
    assert int(train(config, tmp_path / "run").step) == 6  # the same, from what was logged by then
    assert [x["step"] for x in logged(tmp_path / "run")] == [x["step"] for x in log]


def test_free_training_is_validated_by_pgd_and_resumed(tmp_path):
    config = get_config()
    config.attack.method, config.attack.num_steps, config.num_steps = "free", 2, 4
    config.checkpoint_every_steps, config.validation.epsilon = 2, -1.0
    final = jax.device_get(train(config, tmp_path / "run"))
    (found,) = (line for line in logged(tmp_path / "run") if "val_pgd_accuracy" in line)
    assert found["val_pgd_accuracy"] <= found["val_clean_accuracy"]
    remove_checkpoints(tmp_path / "run", 4)
    assert_bitwise_equal(jax.device_get(train(config, tmp_path / "run")), final)
    assert step_passes(config) == 6


@pytest.mark.parametrize(
    ("change", "may_collapse"),
    [
        ({}, True),  # one step of PGD
        ({"attack.method": "n_fgsm"}, True),
        ({"attack.num_steps": 2}, False),
        ({"validation.epsilon": 0.0}, False),
    ],
)
def test_runs_that_may_overfit_to_their_attack_have_one_step(change, may_collapse):
    config = get_config()
    config.update_from_flattened_dict({"validation.epsilon": -1.0} | change)
    assert _has_one_step_attack(config) == may_collapse


def test_a_run_that_overfits_to_its_one_step_attack_warns_once(tmp_path, capfd, pgd_accuracies):
    """Simulated PGD accuracy falls at step 6; the run continues to its end."""
    config = get_config()
    config.validation.every_steps, config.validation.epsilon = 2, -1.0
    pgd_accuracies |= {2: 0.4, 4: 0.5, 6: 0.25, 8: 0.2}
    assert int(train(config, tmp_path / "run").step) == 12
    err = capfd.readouterr().err
    assert err.count("the model overfits to its one-step attack") == 1
    assert "val_pgd_accuracy fell from 50.0% to 25.0% at step 6: " in err
    assert "attack.num_steps = 2), attack.method = 'n_fgsm', or early_stop" in err


def test_a_different_number_of_devices_resumes_with_a_message(finished, tmp_path):
    workdir = tmp_path / "fewer"
    shutil.copytree(finished[0], workdir)
    remove_checkpoints(workdir, 12)
    process, err = start(workdir, devices=2)
    process.join()
    assert process.exitcode == 0 and "resuming at step 8" in err.read_text()
    words = f"{workdir} started on 4 devices, resuming on 2: the same batches"
    assert words in err.read_text()
    found, whole = (
        ravel_pytree(models.load(path).params["params"])[0] for path in (workdir, finished[0])
    )
    assert jnp.linalg.norm(found - whole) < 0.02 * jnp.linalg.norm(whole)  # random starts too
    assert models.store.latest_step(workdir) == 12
    config = get_config()
    config.batch_size = 18  # of four devices
    with pytest.raises(InputError, match="does not divide by 4 devices"):
        train(config, workdir)


def test_all_checkpoints_damaged_is_an_error(finished, tmp_path):
    workdir = tmp_path / "hopeless"
    shutil.copytree(finished[0], workdir)
    for data in (workdir / "checkpoints").rglob("d/*"):
        data.write_bytes(b"")
    log = (workdir / "metrics.jsonl").read_bytes()
    for _ in range(2):  # the second call must not start again either
        with pytest.raises(InputError, match="no checkpoint in .* can be read"):
            train(get_config(), workdir)
    assert (workdir / "metrics.jsonl").read_bytes() == log


def test_a_different_config_is_refused_with_the_difference(finished):
    config = get_config()
    config.learning_rate = 0.07
    config.attack.num_steps = 2
    with pytest.raises(InputError) as caught:
        train(config, finished[0])
    assert "learning_rate: 0.05 there, 0.07 now" in str(caught.value)
    assert "attack.num_steps: 1 there, 2 now" in str(caught.value)


def test_non_finite_loss_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    config = get_config()
    config.learning_rate, config.checkpoint_every_steps = 1e38, 1
    config.attack.epsilon = 0.0
    with pytest.raises(TrainingDiverged, match="step [0-9]+: .* = (nan|inf).*Lower learning_rate"):
        train(config, tmp_path / "diverged")
    steps = [d.name for d in (tmp_path / "diverged" / "checkpoints").iterdir()]
    for step in filter(str.isdigit, steps):
        variables = models.load(tmp_path / "diverged", step=int(step)).params
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(variables["batch_stats"]))


def test_a_full_disk_is_reported_before_the_save_and_loses_nothing(tmp_path, monkeypatch, finished):
    usage = shutil.disk_usage(tmp_path)
    found = iter((usage, usage._replace(free=10_000)))  # before the first save and the second
    monkeypatch.setattr(shutil, "disk_usage", lambda _: next(found))
    with pytest.raises(OSError, match=r"No space left on the disk .* \(0 MiB free\)"):
        train(get_config(), tmp_path / "run")
    monkeypatch.undo()
    assert models.store.latest_step(tmp_path / "run") == 4
    assert_bitwise_equal(jax.device_get(train(get_config(), tmp_path / "run")), finished[1])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("attack.p", 3.0, "p = 3.0: the norm must be one of 1, 2, inf"),
        ("attack.epsilon", -1.0, "attack.epsilon = -1.0"),
        ("attack.epsilon", float("nan"), "attack.epsilon = nan"),
        ("batch_size", 18, "does not divide by 4 devices; the nearest below is 16"),
        ("arch", "vgg", "arch = 'vgg' is not known; allowed: 'resnet18'"),
        ("dataset", "mnist", "dataset = 'mnist' is not known"),
        ("schedule", "linear", "schedule = 'linear' is not known"),
        ("momentum", 1.0, "momentum = 1.0"),
        ("best_metric", "accuracy", "best_metric = 'accuracy' is not known"),
        ("ema_decay", 1.0, "ema_decay = 1.0"),
        ("seed", -1, "seed = -1"),
        ("num_epochs", float("inf"), "num_epochs = inf"),
        ("keep_last", 0, "keep_last = 0"),
        ("accumulation_steps", 3, "by 4 devices of 3 steps; the nearest below is 12"),
        ("attack.loss", "kl", "attack.loss = 'kl' and its gradient are 0"),
        ("color_shift.rho", 0.5, "rho = 0.5: majority : minority must be >= 1"),
        ("trades_beta", -1.0, "trades_beta = -1.0"),
        ("background.mask_fault", "rough", "background.mask_fault = 'rough' is not known"),
        ("background.noise_std", -0.1, "background.noise_std = -0.1"),
        ("background.fault_pixels", -1, "background.fault_pixels = -1"),
        ("background.noise_share", 1.1, "background.noise_share = 1.1: it must be in"),
        ("background.mix_share", -0.1, "background.mix_share = -0.1: it must be in"),
        ("attack.method", "fgsm", "attack.method = 'fgsm' is not known; allowed: 'pgd', 'fgsm_rs'"),
        ("attack", {"attack.method": "n_fgsm", "attack.p": 1.0}, "'n_fgsm' is not for l1"),
        (
            "attack",
            {"attack.method": "free", "attack.loss": "margin"},
            "'free' takes its gradients",
        ),
    ],
)
def test_values_no_run_can_use_are_refused_before_anything_is_written(
    tmp_path, key, value, message
):
    config = get_config()
    config.attack.random_start = "none"
    config.update_from_flattened_dict(value if isinstance(value, dict) else {key: value})
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_epsilon_of_255_units_warns_with_both_readings(tmp_path):
    config = get_config()
    config.attack.p, config.attack.epsilon = float("inf"), 8.0
    config.dataset = "mnist"  # stops right after the check
    with (
        pytest.warns(UserWarning, match="epsilon = 8 for linf .* write 8/255 = 0.03137"),
        pytest.raises(InputError),
    ):
        train(config, tmp_path / "run")


def test_a_second_signal_is_not_caught():
    # A shell may have started the tests with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            with _stop_signals() as asked:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)
                assert asked == [signal.SIGINT]
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_stop_signal_in_process_raises(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_stop_signals", lambda: contextlib.nullcontext([signal.SIGINT]))
    with pytest.raises(TrainingStopped, match="stopped and saved at step 1 of 12"):
        train(get_config(), tmp_path / "run")
