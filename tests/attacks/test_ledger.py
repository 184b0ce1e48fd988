"""What is kept on disk: after a kill anywhere the same call ends as if there had been none."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advspur._checks import InputError
from advspur.attacks import active, security_curve
from advspur.attacks.ledger import Ledger, checksum

ASKED = {"p": "l2", "epsilons": [0.1, 0.2], "key": "0"}

# --- the file ---


def lines_of(path):
    return (path / "ledger.jsonl").read_text().split("\n")


def test_entries_are_found_again_as_they_were_noted(tmp_path):
    entry = {"rows": [0, 3], "fooled": [3], "seconds": 0.1 + 0.2}
    noted = {(0, "apgd-ce", 0): entry, (1, "apgd-ce again", 12): entry | {"fooled": []}}
    ledger = Ledger(tmp_path / "new" / "folder", ASKED)
    for of, entry in noted.items():
        ledger.add(of, entry)
    found = Ledger(tmp_path / "new" / "folder", ASKED).entries
    assert list(found) == list(noted)
    for of, entry in noted.items():
        assert {name: found[of][name] for name in entry} == entry


def test_a_line_is_on_disk_once_it_is_noted(tmp_path):
    ledger = Ledger(tmp_path, ASKED)
    for number in range(3):
        ledger.add((0, "square", number), {"rows": []})
        assert len(lines_of(tmp_path)) == number + 3 and lines_of(tmp_path)[-1] == ""


@pytest.mark.parametrize("kept", (1, 10, -2, -1))
def test_a_last_line_that_was_cut_is_as_if_not_there(tmp_path, kept):
    ledger = Ledger(tmp_path, ASKED)
    for number in range(2):
        ledger.add((0, "square", number), {"rows": [number]})
    *whole, last, _ = lines_of(tmp_path)
    (tmp_path / "ledger.jsonl").write_text("\n".join([*whole, (last + "\n")[:kept]]))
    done = [(0, "square", 0)] + [(0, "square", 1)] * (kept == -1)  # but for the newline: whole
    resumed = Ledger(tmp_path, ASKED)
    assert list(resumed.entries) == done
    resumed.add((0, "square", 2), {"rows": [2]})
    assert list(Ledger(tmp_path, ASKED).entries) == [*done, (0, "square", 2)]


def test_bytes_that_are_no_text_are_as_if_not_there(tmp_path):
    """As a power cut leaves them."""
    Ledger(tmp_path, ASKED).add((0, "square", 0), {"rows": [0]})
    with (tmp_path / "ledger.jsonl").open("ab") as file:
        file.write(b"\x00\xff\xfe\x00")
    assert list(Ledger(tmp_path, ASKED).entries) == [(0, "square", 0)]


def test_a_first_line_that_was_cut_is_written_again(tmp_path):
    path = tmp_path / "ledger.jsonl"
    path.write_text(json.dumps(ASKED)[:9])
    Ledger(tmp_path, ASKED).add((0, "square", 0), {"rows": [0]})
    assert list(Ledger(tmp_path, ASKED).entries) == [(0, "square", 0)]


def test_another_call_is_refused_and_nothing_is_lost(tmp_path):
    Ledger(tmp_path, ASKED).add((0, "square", 0), {"rows": [0]})
    before = (tmp_path / "ledger.jsonl").read_bytes()
    message = r"holds another attack: p l2, now l1, key 0, now 7; name another directory"
    with pytest.raises(InputError, match=message):
        Ledger(tmp_path, ASKED | {"p": "l1", "key": "7"})
    assert (tmp_path / "ledger.jsonl").read_bytes() == before


def test_a_checksum_tells_arrays_apart():
    array = np.arange(12.0).reshape(3, 4)
    assert checksum(array) == checksum(np.asfortranarray(array)) == checksum(array[:2], array[2:])
    assert len({checksum(a) for a in (array, array + 1e-15, array[::-1], array.astype("f"))}) == 4


# --- whole calls, under attacks of known reach ---

EPSILONS = [0.2, 0.1]
REACH = {"apgd-ce": 0.5, "apgd-t": 0.75, "fab-t": 0.8, "square": 1.0}
VALUES = np.array([0.4, 0.51, 0.53, 0.56, 0.57, 0.58, 0.59, 0.62, 0.9, 0.66], np.float32)
IMAGES = np.broadcast_to(VALUES[:, None, None, None], (10, 2, 2, 1)).copy()
LABELS = np.ones(10, int)
CALLS = []


def logits_fn(x):
    """Ten classes; label 1 is right where the mean pixel exceeds 0.5, label 0 elsewhere."""
    score = jnp.mean(x, axis=(1, 2, 3)) - 0.5
    rest = jnp.full((8, len(x)), -99.0)
    return jnp.concatenate([jnp.zeros((1, len(x))), score[None], rest]).T


def run_member(_, images, labels, keys, epsilon, run, *, member, p, bounds):
    """Darken by the attack's share of epsilon, and by a little that depends on the key."""
    CALLS.append((member.name, run, round(float(epsilon), 6)))
    noise = 0.01 * jax.vmap(jax.random.uniform)(keys)[:, None, None, None]
    reach = (REACH[member.name] - noise) * epsilon
    return jnp.maximum(images - reach, 0), np.zeros(len(images), bool), np.full(len(images), 3)


def attack(directory=None, images=IMAGES, labels=LABELS, key=None, model=logits_fn, **options):
    call = {"p": math.inf, "epsilons": EPSILONS, "batch_size": 4, "directory": directory}
    return security_curve(model, images, labels, key, **(call | options))


def assert_same(results, others):
    for one, other in zip(results, others, strict=True):
        assert one.fooled_by.tolist() == other.fooled_by.tolist()
        assert one.warnings == other.warnings and one.epsilon == other.epsilon
        for cost, expected in zip(one.attacks, other.attacks, strict=True):
            assert cost._replace(seconds=0) == expected._replace(seconds=0)


class Stop(Exception):
    """What tests raise in the middle."""


@pytest.fixture(scope="module")
def whole():
    """(the results of a call without a folder, the calls of attacks that it made)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(active, "run_member", run_member)
        CALLS.clear()
        return attack(), CALLS.copy()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a call that has ended."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(active, "run_member", run_member)
        attack(folder)
    return folder


@pytest.fixture
def toy(whole, finished, monkeypatch):
    """The calls of attacks of known reach."""
    monkeypatch.setattr(active, "run_member", run_member)
    CALLS.clear()
    return CALLS


def test_a_finished_call_is_not_done_again_and_a_folder_changes_no_result(toy, whole, tmp_path):
    assert_same(attack(tmp_path), whole[0])
    assert toy == whole[1]
    logs = [], []
    for log in logs:
        assert_same(attack(tmp_path, log=log.append), whole[0])
    assert toy == whole[1]
    assert logs[0] == logs[1]  # times as well: they are those of the attacks, not of the reading


@pytest.mark.parametrize("batches", (1, 5, 12))
@pytest.mark.parametrize("where", ("advance", "log", "run_member"))
def test_after_an_exception_the_same_call_goes_on(
    toy, whole, tmp_path, monkeypatch, where, batches
):
    expected, all_calls = whole
    left = batches

    def count_down(*_):
        nonlocal left
        left -= 1
        if left < 0:
            raise Stop

    def log(text):
        if "successfully perturbed" in text:
            count_down()

    def run_member_or_stop(*args, **kwargs):
        count_down()
        return run_member(*args, **kwargs)

    if where == "run_member":
        monkeypatch.setattr(active, "run_member", run_member_or_stop)
    options = {"advance": {"advance": count_down}, "log": {"log": log}}.get(where, {})
    with pytest.raises(Stop):
        attack(tmp_path, **options)
    monkeypatch.setattr(active, "run_member", run_member)
    assert_same(attack(tmp_path), expected)
    again = len(toy) - len(all_calls)
    if where == "run_member":
        assert 0 <= again < 9  # the runs of the batch it was in; 9 targets at most
    else:
        assert again == 0
    assert set(toy) == set(all_calls)


KILLED = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("tests_of_ledger", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.die_in_the_middle(sys.argv[2])
"""


def die_in_the_middle(directory):
    """In a process of its own: killed with half of the eighth line written."""
    fsync, count = os.fsync, 0

    def fsync_or_die(file):
        nonlocal count
        count += 1
        if count == 8:
            whole = sum(len(line) + 1 for line in lines_of(Path(directory))[:7])
            os.truncate(file, whole + 40)
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(file)

    active.run_member, os.fsync = run_member, fsync_or_die
    attack(directory)


def test_after_a_kill_the_same_call_goes_on(toy, whole, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, __file__, str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(lines_of(tmp_path)) == 8 and len(lines_of(tmp_path)[-1]) == 40
    for _ in range(2):
        assert_same(attack(tmp_path), whole[0])
        assert 0 < len(toy) < len(whole[1])  # what was done is not done again
    assert len(lines_of(tmp_path)[7]) == 40  # the half line is left alone


@pytest.mark.parametrize(
    "change, told",
    [
        ({"epsilons": [0.1]}, "epsilons"),
        ({"epsilons": [0.1, 0.25]}, "epsilons"),
        ({"p": 2}, "p linf, now l2"),
        ({"version": "plus"}, "version standard, now plus"),
        ({"attacks": ["square"]}, "version standard, now custom, attacks"),
        ({"batch_size": 8}, "batch_size 4, now 8"),
        ({"bounds": (0.0, 2.0)}, "bounds"),
        ({"images": np.nextafter(IMAGES, np.float32(0))}, "images and labels"),
        ({"labels": 1 - LABELS}, "images and labels"),
        ({"key": jax.random.key(1)}, "key"),
        ({"model": lambda x: logits_fn(x - 0.05)}, "clean predictions"),
    ],
)
def test_what_another_call_did_is_refused_and_not_lost(toy, finished, change, told):
    before = (finished / "ledger.jsonl").read_bytes()
    with pytest.raises(InputError, match=f"holds another attack: .*{told}") as caught:
        attack(finished, **change)
    assert "\n" not in str(caught.value)
    assert (finished / "ledger.jsonl").read_bytes() == before and toy == []


def test_another_model_of_the_same_predictions_is_refused(toy, tmp_path):
    def scaled(scale, x):
        return scale * logits_fn(x)

    models = [jax.tree_util.Partial(scaled, jnp.bfloat16(scale)) for scale in (1, 1, 2)]
    for model in models[:2]:
        attack(tmp_path, attacks=["square"], model=model)
    with pytest.raises(InputError, match="holds another attack: weights"):
        attack(tmp_path, attacks=["square"], model=models[2])


def test_another_plain_function_of_the_same_predictions_is_refused(toy, tmp_path):
    attack(tmp_path, attacks=["square"])
    with pytest.raises(InputError, match="holds another attack: size of the clean logits"):
        attack(tmp_path, attacks=["square"], model=lambda x: 2 * logits_fn(x))


def test_the_order_of_budgets_does_not_matter(toy, whole, finished):
    results = attack(finished, epsilons=EPSILONS[::-1])
    for result, expected in zip(results, whole[0][::-1], strict=True):
        assert result.fooled_by.tolist() == expected.fooled_by.tolist()
    assert toy == []


def test_a_folder_holds_outcomes_and_no_images(toy, whole, finished):
    assert [path.name for path in finished.iterdir()] == ["ledger.jsonl"]
    assert all(result.images is None for result in attack(finished)) and toy == []
    assert all(result.images.shape == IMAGES.shape for result in whole[0])


def test_a_ledger_of_other_rows_is_refused(toy, finished, tmp_path):
    first, entry, *rest = lines_of(finished)
    entry = json.dumps(json.loads(entry) | {"rows": [5, 6]})
    (tmp_path / "ledger.jsonl").write_text("\n".join([first, entry, *rest]))
    with pytest.raises(InputError, match=f"{tmp_path}/ledger.jsonl does not fit"):
        attack(tmp_path)
