"""The ensemble: its bookkeeping against hand arithmetic, its strength against exact optima.

Bookkeeping is tested with attacks of known reach (`toy`): for a grey image of value v and label 1,
`double` is right while v > 0.5, and an attack of reach r darkens it by r * epsilon. The values
therefore show which attack fools which image.
"""

import itertools
import math
import os
import re
import subprocess
import sys

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advspur.attacks import autoattack, check_perturbation, ensemble, security_curve
from advspur.attacks.losses import loss_function
from tests import forked
from tests.attacks.oracles import LINES, images_with_corners
from tests.refusals import refused

INF = math.inf
STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
REACH = {"apgd-ce": 0.5, "apgd-t": 0.75, "fab-t": 0.75, "square": 1.0, "apgd-dlr": 0.5, "fab": 0.5}


def double(x):
    """Ten classes; the prediction is 1 if the mean pixel exceeds 0.5, else 0."""
    score = jnp.mean(x, axis=(1, 2, 3)) - 0.5
    rest = jnp.full((8, len(x)), -99.0)
    return jnp.concatenate([jnp.zeros((1, len(x))), score[None], rest]).T


def grey(*values):
    """Images with one value each, and labels 1."""
    values = np.asarray(values, np.float32)[:, None, None, None]
    return np.broadcast_to(values, (len(values), 2, 2, 1)).copy(), np.ones(len(values), int)


@pytest.fixture
def toy(monkeypatch):
    """Attacks of known reach; return the list of calls (name, run, images, keys, epsilon)."""
    calls = []

    def run_member(logits_fn, images, labels, keys, epsilon, run, *, member, p, bounds):
        hash((member, p, bounds))  # as jit does
        keys = np.asarray(jax.random.key_data(keys))
        calls.append((member.name, run, np.asarray(images), keys, float(epsilon)))
        last = run == member.num_runs - 1
        reach = REACH[member.name] * (1 if last else 0.25)
        queries = np.full(len(images), 7 if member.name == "square" else 0)
        return jnp.maximum(images - reach * epsilon, 0), np.zeros(len(images), bool), queries

    monkeypatch.setattr(ensemble, "run_member", run_member)
    return calls


def replace(monkeypatch, attack):
    """Replace all attacks by attack(images, epsilon, run, member) -> (images, vanished)."""

    def run_member(_, images, labels, keys, epsilon, run, *, member, p, bounds):
        x, vanished = attack(images, epsilon, run, member)
        return x, np.full(len(images), vanished), np.zeros(len(images), int)

    monkeypatch.setattr(ensemble, "run_member", run_member)


def linf(images, labels, epsilon=0.1, logits_fn=double, **options):
    return autoattack(logits_fn, images, labels, p=INF, epsilon=epsilon, **options)


# --- which images are attacked, and what is counted ---

MIXED = grey(0.4, 0.51, 0.53, 0.56, 0.57, 0.58, 0.59, 0.62, 0.9)
MIXED_FOOLED = ["clean", *["apgd-ce"] * 2, *["apgd-t"] * 2, *["square"] * 2, "", ""]


def test_each_attack_gets_the_images_left_robust_so_far(toy):
    result = linf(*MIXED, batch_size=16)
    assert result.fooled_by.tolist() == MIXED_FOOLED
    np.testing.assert_array_equal(result.robust, [name == "" for name in MIXED_FOOLED])
    np.testing.assert_array_equal(result.clean_correct, [False] + [True] * 8)
    assert (result.clean_accuracy, result.robust_accuracy) == (8 / 9, 2 / 9)
    assert [cost.name for cost in result.attacks] == list(STANDARD)
    assert [cost.num_attacked for cost in result.attacks] == [8, 6, 4, 4]
    left = [cost.robust_accuracy for cost in result.attacks]
    np.testing.assert_allclose(left, [6 / 9, 4 / 9, 4 / 9, 2 / 9])
    values = MIXED[0][:, 0, 0, 0]
    for name, rows in zip(STANDARD, ([*range(1, 9)], [*range(3, 9)], [*range(5, 9)]), strict=False):
        given = next(call[2] for call in toy if call[0] == name)
        assert set(given[:, 0, 0, 0]) == set(values[rows])


def test_each_run_of_an_attack_gets_what_the_previous_one_left(toy):
    images, labels = grey(0.51, 0.56, 0.9)  # fooled by the first target, the ninth, none
    result = linf(images, labels, attacks=["apgd-t"])
    distinct = [len(set(call[2][:, 0, 0, 0])) for call in toy]
    assert [call[1] for call in toy] == list(range(9)) and distinct == [3] + 8 * [2]
    tried = 3 + 8 * 2
    assert result.attacks[0].gradients == 101 * tried
    assert result.attacks[0].forwards == 3 * tried
    assert result.robust.tolist() == [False, False, True]
    images, labels = grey(0.9, 0.8, 0.7)  # queries are counted per image
    (cost,) = linf(images, labels, attacks=["square"]).attacks
    assert (cost.gradients, cost.forwards) == (0, 3 * (7 + 3))


def test_images_are_adversarial_if_found_and_else_unchanged(toy):
    images, labels = MIXED
    images = images + np.linspace(0, 0.01, 4, dtype="f").reshape(2, 2, 1)
    result = linf(images, labels)
    fooled = result.clean_correct & ~result.robust
    assert fooled.sum() == 6
    np.testing.assert_array_equal(result.images[~fooled], images[~fooled])
    assert np.all(np.argmax(double(result.images[fooled]), axis=1) != 1)
    check_perturbation(result.images, images, p=INF, epsilon=0.1)
    assert linf(images, labels, keep_images=False).images is None


@pytest.mark.parametrize("batch_size", (1, 3, 8, 100))
def test_flags_and_keys_do_not_depend_on_the_batch_size(toy, batch_size):
    result = linf(*MIXED, batch_size=batch_size)
    assert result.fooled_by.tolist() == MIXED_FOOLED
    values = MIXED[0][:, 0, 0, 0].tolist()
    for _, _, images, keys, _ in toy:
        for value, own in zip(images[:, 0, 0, 0].tolist(), keys, strict=True):
            row = values.index(value)
            expected = jax.random.fold_in(jax.random.key(0), row)
            np.testing.assert_array_equal(own, jax.random.key_data(expected))


def test_few_shapes_reach_the_attacks(toy):
    """At most sixteen sizes, multiples of four devices, as small as the batch allows."""
    sizes = {}
    for count in (1, 7, 8, 9, 16, 17, 32, 33, 63, 64, 65, 130):
        toy.clear()
        linf(*grey(*[0.9] * count), batch_size=64, attacks=["square"])
        sizes[count] = [len(call[2]) for call in toy]
    assert sizes == {
        1: [4], 7: [8], 8: [8], 9: [12], 16: [16], 17: [20], 32: [32], 33: [36], 63: [64],
        64: [64], 65: [64, 4], 130: [64, 64, 4],
    }  # fmt: skip
    toy.clear()
    linf(*grey(*[0.9] * 3), batch_size=2, attacks=["square"])
    assert [len(call[2]) for call in toy] == [4, 4]  # the devices that conftest.py forces


def test_padded_rows_are_not_counted(monkeypatch):
    """Padding repeats the first row, which is fooled and has no gradient."""

    def last_run(images, epsilon, run, member):
        return images - (0.1 if run == member.num_runs - 1 else 0), run < 2  # also for padding

    replace(monkeypatch, last_run)
    for name in ("apgd-dlr", "apgd-t"):  # one run; nine runs, the last of which succeeds
        log = []
        result = linf(*grey(0.52, 0.54, 0.53), log=log.append, batch_size=64, attacks=[name])
        assert f"{name} - 1/1 - 3 out of 3 successfully perturbed" in log
        assert result.warnings == (
            f"there are 3 points with zero gradient (or NaN) in {name}. See docs/attacks.md.",
        )
        assert result.robust_accuracy == 0


@pytest.mark.parametrize("count", (1, 5))
def test_no_attack_runs_if_all_are_lost_and_all_run_if_nothing_succeeds(toy, count):
    result = linf(*grey(*[0.1] * count))
    assert toy == [] and result.fooled_by.tolist() == ["clean"] * count
    assert [cost.num_attacked for cost in result.attacks] == [0] * 4
    assert result.robust_accuracy == result.clean_accuracy == 0
    images, labels = grey(*[0.9] * count)
    passes = []
    result = linf(images, labels, advance=passes.append, batch_size=2)
    assert result.robust.all() and result.robust_accuracy == 1
    assert [cost.num_attacked for cost in result.attacks] == [count] * 4
    np.testing.assert_array_equal(result.images, images)
    most = ensemble.most_passes("standard", p=INF, num_classes=10)
    assert sum(passes) == count * (most - ensemble.NUM_QUERIES + 7)  # `toy` makes 7 queries


def test_an_attack_that_leaves_its_ball_is_an_error(monkeypatch):
    for value in (0.9, 0.1):  # it fails, and it succeeds
        replace(monkeypatch, lambda x, *_, value=value: (jnp.full_like(x, value), False))
        refused("left the linf ball: .* its epsilon 0.1", linf, *grey(0.52), attacks=["square"])


# --- log lines ---


def test_the_log_has_the_lines_of_autoattack(toy):
    log = []
    linf(*MIXED, log=log.append, batch_size=5)
    assert all(any(re.fullmatch(line, text) for line in LINES) for text in log), log
    assert [re.sub(r"time \d+\.\d s", "time T s", text) for text in log] == [
        "using standard version including apgd-ce, apgd-t, fab-t, square.",
        "initial accuracy: 88.89%",
        "apgd-ce - 1/2 - 2 out of 5 successfully perturbed",
        "apgd-ce - 2/2 - 0 out of 3 successfully perturbed",
        "robust accuracy after APGD-CE: 66.67% (total time T s)",
        "apgd-t - 1/2 - 2 out of 5 successfully perturbed",
        "apgd-t - 2/2 - 0 out of 1 successfully perturbed",
        "robust accuracy after APGD-T: 44.44% (total time T s)",
        "fab-t - 1/1 - 0 out of 4 successfully perturbed",
        "robust accuracy after FAB-T: 44.44% (total time T s)",
        "square - 1/1 - 2 out of 4 successfully perturbed",
        "robust accuracy after SQUARE: 22.22% (total time T s)",
        "Warning: Square has lowered the robust accuracy by 22.22%. See docs/attacks.md.",
        "max Linf perturbation: 0.10000, nan in tensor: 0, max: 0.90000, min: 0.40000",
        "robust accuracy: 22.22%",
    ]
    log.clear()  # a larger budget starts at the accuracy without an attack
    security_curve(double, *MIXED, p=INF, epsilons=[0.1, 0.3], attacks=["square"], log=log.append)
    share = [text for text in log if "accuracy:" in text]
    assert share == [
        "initial accuracy: 88.89%",
        "robust accuracy: 22.22%",
        "initial accuracy: 88.89%",
        "robust accuracy: 11.11%",
    ]


# --- too few classes ---


FEW = [  # version, p, classes, runs of each attack, attacks whose loss is the margin, notes
    ("standard", INF, 2, (1, 1, 1, 1), ["apgd-t"], 3),
    ("standard", INF, 4, (1, 3, 3, 1), [], 2),
    ("standard", INF, 10, (1, 9, 9, 1), [], 0),
    ("standard", 1, 9, (5, 5, 8, 1), [], 1),
    ("standard", 1, 1000, (5, 5, 9, 1), [], 0),
    ("plus", 1, 2, (5, 5, 1, 1, 1, 1), ["apgd-dlr", "apgd-t"], 4),
    ("plus", 1, 3, (5, 5, 1, 1, 2, 2), ["apgd-t"], 3),
    ("plus", INF, 10, (5, 5, 1, 1, 9, 9), [], 0),
]


@pytest.mark.parametrize("version, p, num_classes, runs, of_margin, num_notes", FEW)
def test_attacks_adapt_to_few_classes(version, p, num_classes, runs, of_margin, num_notes):
    found, notes = ensemble.members(version, None, p=p, num_classes=num_classes)
    assert tuple(m.name for m in found) == ensemble.VERSIONS[version]
    assert tuple(m.num_runs for m in found) == runs and len(notes) == num_notes
    assert [m.name for m in found if m.loss == "margin"] == of_margin
    for member in found:
        if member.loss:
            loss_function(member.loss, num_classes, targeted=member.is_targeted)  # else it raises


def test_rand_has_two_attacks_over_samples():
    found, notes = ensemble.members("rand", None, p=1, num_classes=10)
    assert [m.name for m in found] == ["apgd-ce", "apgd-dlr"]
    assert [(m.num_runs, m.num_samples) for m in found] == [(1, 20)] * 2
    assert notes == [] and [m.gradients for m in found] == [103 * 20] * 2


@pytest.mark.parametrize("num_classes", (2, 3, 4, 9, 10, 1000))
def test_targets_are_the_wrong_classes_in_the_order_of_their_logits(monkeypatch, num_classes):
    """With an `apgd` that returns the target itself."""
    weights = jnp.asarray(np.random.default_rng(num_classes).normal(size=(4, num_classes)))

    def logits_fn(x):
        return x.reshape(len(x), -1) @ weights.astype(x.dtype)

    losses = []

    def apgd(logits_fn, images, labels, keys, *, loss, targets, **call):
        losses.append(loss)
        value = loss_function(loss, num_classes, targeted=True)(logits_fn(images), labels, targets)
        assert value.shape == labels.shape
        shown = jnp.zeros_like(images) + targets[:, None, None, None]
        return shown, jnp.zeros(len(labels), bool)

    monkeypatch.setattr(ensemble, "apgd", apgd)
    images = np.random.default_rng(1).random((4, 2, 2, 1), "float32")
    labels = np.array([0, 1, num_classes - 1, 1])
    (member,), _ = ensemble.members("standard", ["apgd-t"], p=INF, num_classes=num_classes)
    keys, shown = jax.random.split(jax.random.key(0), 4), []
    for run in range(member.num_runs):
        call = ensemble.as_pytree(logits_fn), images, labels, keys, 0.1, run
        x, *_ = ensemble.run_member(*call, member=member, p=INF, bounds=(0.0, 1.0))
        shown.append(x[:, 0, 0, 0])
    order = np.argsort(-np.asarray(logits_fn(images)), axis=1)
    for row, label in enumerate(labels):
        wrong = [k for k in order[row] if k != label][: member.num_runs]
        assert [int(target[row]) for target in shown] == wrong
    assert losses == ["dlr" if num_classes > 3 else "margin"]  # and one trace for all targets


def test_notes_on_few_classes_are_logged(toy):
    log = []
    linf(*grey(0.9), logits_fn=lambda x: double(x)[:, :3], log=log.append)
    assert log[1:4] == [
        "apgd-t: DLR needs 4 classes, its loss is the margin",
        "apgd-t: 2 targets instead of 9",
        "fab-t: 2 targets instead of 9",
    ]
    assert sorted({run for name, run, *_ in toy if name == "apgd-t"}) == [0, 1]


# --- several budgets ---


def test_a_curve_has_the_order_of_its_budgets_and_at_most_the_planned_passes(toy):
    (images, labels), passes = MIXED, []
    call = {"epsilons": [0.1, 0.0, 0.3, 0.02], "advance": passes.append}
    curve = security_curve(double, images, labels, p=INF, **call)
    epsilons = [result.epsilon for result in curve]
    assert epsilons == call["epsilons"]
    most = ensemble.most_passes("standard", p=INF, num_classes=10)
    assert 0 < sum(passes) <= 4 * len(labels) * most
    value = images[:, 0, 0, 0]
    for epsilon, result in zip(epsilons, curve, strict=True):
        np.testing.assert_array_equal(result.robust, value - epsilon > 0.5)
        check_perturbation(result.images, images, p=INF, epsilon=epsilon)
        fooled = result.clean_correct & ~result.robust
        assert np.all(np.argmax(double(result.images[fooled]), axis=1) != 1)
        np.testing.assert_array_equal(result.images[~fooled], images[~fooled])
        assert result.warnings == () or "Square" in result.warnings[0]


def test_images_lost_at_one_budget_are_not_attacked_at_larger_ones(toy):
    """Except by apgd-ce, on what it fooled before, to check that it is monotone."""
    small, large = security_curve(double, *MIXED, p=INF, epsilons=[0.1, 0.2], batch_size=16)
    assert [cost.num_attacked for cost in large.attacks] == [2, 2, 1, 1]
    assert large.fooled_by.tolist() == [*MIXED_FOOLED[:7], "apgd-t", ""]
    lost = ~small.robust
    np.testing.assert_array_equal(large.images[lost], small.images[lost])
    again = [call[2][:, 0, 0, 0] for call in toy if call[0] == "apgd-ce" and call[4] > 0.15]
    assert [set(a.tolist()) for a in again] == [
        {float(v) for v in MIXED[0][rows, 0, 0, 0]} for rows in ([7, 8], [1, 2])
    ]


def test_a_curve_that_is_not_monotone_gives_a_warning(monkeypatch):
    def at_small_budgets(images, epsilon, *_):
        return jnp.maximum(images - np.where(epsilon < 0.15, epsilon, 0), 0), False

    replace(monkeypatch, at_small_budgets)
    log, call = [], {"p": INF, "epsilons": [0.1, 0.2], "attacks": ["apgd-ce"]}
    small, large = security_curve(double, *MIXED, log=log.append, **call)
    expected = (
        "accuracy is not monotone in epsilon: apgd-ce misses 6 of 6 images that it fooled with a "
        "smaller one. See docs/attacks.md."
    )
    assert (small.warnings, large.warnings) == ((), (expected,))
    assert f"Warning: {expected}" in log
    assert large.robust_accuracy == small.robust_accuracy == 2 / 9  # lost images stay lost


# --- how models are given ---


@flax.struct.dataclass
class Model:
    """A pytree with a method, like Classifier."""

    weights: jax.Array
    traces = 0

    def logits(self, x):
        Model.traces += isinstance(x, jax.core.Tracer)
        return x.reshape(len(x), -1) @ self.weights


def test_models_of_one_kind_are_compiled_once(monkeypatch):
    """A method of a pytree and a Partial share a compilation; a plain function works too."""

    def apgd(logits_fn, images, labels, keys, *, epsilon, **call):  # one signed step
        grad = jax.grad(lambda x: jnp.sum(logits_fn(x)[:, 0]))(images)
        none = jnp.zeros(len(labels), bool)
        return jnp.clip(images - epsilon * jnp.sign(grad), 0, 1), none

    monkeypatch.setattr(ensemble, "apgd", apgd)
    images = np.float32([0.9, 0.5, 0.5, 0.4]).reshape(1, 2, 2, 1)
    weights = [[1.0, 1, -1, -1], [1, -1, 1, -1]]
    models = [Model(jnp.array([w, [0.0] * 4]).T) for w in weights]
    expected = [[0.6, 0.2, 0.8, 0.7], [0.6, 0.8, 0.2, 0.7]]
    counts = []
    for logits_fn, number in (
        (models[0].logits, 0),
        (models[1].logits, 1),
        (jax.tree_util.Partial(Model.logits, models[1]), 1),
        (lambda x: models[1].logits(x), 1),
    ):
        Model.traces = 0
        result = linf(images, [0], logits_fn=logits_fn, attacks=["apgd-ce"], epsilon=0.3)
        counts.append(Model.traces)
        np.testing.assert_allclose(result.images.ravel(), expected[number], rtol=0, atol=1e-6)
    # One trace is for shapes alone.
    assert counts[0] > 1 and counts[1:3] == [1, 1] and counts[3] > 1


# --- warnings and refusals ---


def stateful(factor):
    """`double`, with logits times a factor at every second call."""
    calls = itertools.count()
    return lambda x: double(x) * (factor if next(calls) % 2 else 1)


def test_a_model_that_changes_predictions_is_refused_and_one_that_changes_logits_warned_about(toy):
    message = "for 2 of 2 images; use version='rand'"
    refused(message, linf, *grey(0.9, 0.7), logits_fn=stateful(-1))
    assert toy == []
    result = linf(*grey(0.9, 0.7), logits_fn=stateful(1.01))
    assert result.warnings == (
        "two calls give different logits: it seems to be a randomized defense! "
        "See docs/attacks.md.",
    )


@pytest.mark.parametrize(
    "change, message",
    [
        ({"images": lambda x: x + 0.3}, r"images are in \[1, 1.2\].*owns its normalisation"),
        ({"images": lambda x: x[:0], "labels": []}, "there are no images"),
        ({"labels": [1, 10]}, r"labels are in \[1, 10\]; the model has 10 classes"),
        ({"logits_fn": lambda x: double(x) / (x[:, 0, 0] < 0.8)}, "1 of 2 images, first image 0"),
        ({"epsilons": [0.1, -0.1]}, "epsilon = -0.1"),
        ({"epsilons": []}, r"epsilons = \[\]: give one or more numbers"),
        ({"version": "fast"}, "version = 'fast' is not known; allowed: 'standard', 'plus', 'rand'"),
        ({"attacks": ["pgd"]}, "attacks = .'pgd'.: allowed are apgd-ce, apgd-dlr, apgd-t, fab, "),
        ({"attacks": []}, "attacks = .*: allowed are"),
        ({"attacks": ["square", "square"]}, "square"),
        ({"attacks": ["square"], "version": "rand", "logits_fn": lambda x, _: double(x)}, "square"),
        ({"logits_fn": lambda x: double(x)[:, 0]}, "logits .* have shape"),
        ({"batch_size": 0}, "batch_size = 0"),
    ],
)
def test_bad_arguments_are_refused_by_name(toy, tmp_path, change, message):
    images, labels = grey(0.9, 0.7)
    call = {"logits_fn": double, "p": INF, "epsilons": [0.1], "images": lambda x: x} | change
    images, labels = call.pop("images")(images), np.asarray(call.pop("labels", labels))
    call |= {"images": images, "labels": labels, "directory": tmp_path / "ledger"}
    refused(message, security_curve, **call)
    assert toy == [] and not (tmp_path / "ledger").exists()


def test_bounds_are_those_of_the_caller(toy):
    for bounds in ((-1.0, 3.0), [-1, 3]):
        result = linf(*grey(2.0, -0.5, 0.6), epsilon=0.2, bounds=bounds)
        assert result.fooled_by.tolist() == ["", "clean", "apgd-ce"]


def test_float64_images_are_attacked(toy):
    """8-bit pixels / 255 are float64 in NumPy; rounding to 24 bits exceeds 1e-6 of the budget."""
    images = np.linspace(0.5001, 0.503, 400).repeat(4).reshape(400, 2, 2, 1)
    result = linf(images, np.ones(400, int), epsilon=1 / 255, attacks=["square"])
    assert not result.robust.any()


# --- files: after a kill, the same call ends as it would have without one ---


def kept_curve(directory=None, model=double, images=MIXED[0], labels=MIXED[1], key=None, **options):
    call = {"p": INF, "epsilons": [0.2, 0.1], "batch_size": 4, "directory": directory}
    return security_curve(model, images, labels, key, **(call | options))


def assert_same(results, others):
    for one, other in zip(results, others, strict=True):
        assert one.fooled_by.tolist() == other.fooled_by.tolist()
        assert one.warnings == other.warnings and one.epsilon == other.epsilon
        for cost, expected in zip(one.attacks, other.attacks, strict=True):
            assert cost._replace(seconds=0) == expected._replace(seconds=0)


def test_a_finished_call_is_not_repeated_and_a_folder_changes_no_result(toy, tmp_path):
    whole, count = kept_curve(), len(toy)
    assert_same(kept_curve(tmp_path), whole)
    assert len(toy) == 2 * count
    logs = [], []
    for log in logs:
        found = kept_curve(tmp_path, log=log.append)
        assert_same(found, whole)
    assert len(toy) == 2 * count
    assert logs[0] == logs[1]  # even times, since they are kept too
    assert all(result.images is None for result in found) and len(list(tmp_path.iterdir())) == 1
    assert all(result.images.shape == MIXED[0].shape for result in whole)


class Stop(Exception):
    """An interruption."""


@pytest.mark.parametrize("batches", (1, 7))
@pytest.mark.parametrize("where", ("advance", "log", "run_member"))
def test_the_same_call_resumes_after_an_exception(toy, tmp_path, monkeypatch, where, batches):
    whole, left = kept_curve(), batches
    all_calls, run_member = len(toy), ensemble.run_member
    toy.clear()

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
        monkeypatch.setattr(ensemble, "run_member", run_member_or_stop)
    options = {"advance": {"advance": count_down}, "log": {"log": log}}.get(where, {})
    with pytest.raises(Stop):
        kept_curve(tmp_path, **options)
    monkeypatch.setattr(ensemble, "run_member", run_member)
    assert_same(kept_curve(tmp_path), whole)
    again = len(toy) - all_calls
    assert 0 <= again < 9 if where == "run_member" else again == 0  # the runs of one batch


@pytest.mark.parametrize("damage", (-1, -40, b"\x00\xff\xfe\x00", b"\n[1]\n{}\n3", b"\n"))
def test_damaged_lines_are_ignored(toy, tmp_path, damage):
    whole = kept_curve(tmp_path)
    (file,) = tmp_path.iterdir()
    content, count = file.read_bytes(), len(toy)
    file.write_bytes(content[:damage] if isinstance(damage, int) else content + damage)
    for _ in range(2):
        assert_same(kept_curve(tmp_path), whole)
        assert count <= len(toy) < 2 * count  # the first time, one batch is repeated
    assert (len(toy) > count) == (damage in (-1, -40, b"\x00\xff\xfe\x00"))


def test_each_logged_batch_is_on_disk_and_shared_by_lists_of_budgets(toy, tmp_path):
    lines = []

    def log(text):
        if "successfully perturbed" in text:
            (file,) = tmp_path.iterdir()
            lines.append(file.read_text().count("\n"))

    kept_curve(tmp_path, log=log)
    assert lines == list(range(1, len(lines) + 1)) and len(lines) > 8
    count = len(toy)
    for epsilons in ([0.1, 0.2], [0.1]):
        found = kept_curve(tmp_path, epsilons=epsilons)
        assert [result.epsilon for result in found] == epsilons and len(toy) == count


def scaled(scale, x):
    return scale * double(x)


@pytest.mark.parametrize(
    "change",
    [
        {"p": 2, "epsilons": [1e-9]},
        {"version": "plus"},
        {"batch_size": 8},
        {"bounds": (0.0, 2.0)},
        {"images": np.nextafter(MIXED[0], np.float32(0))},
        {"labels": 1 - MIXED[1]},
        {"key": jax.random.key(1)},
        {"model": lambda x: double(x - 0.05)},  # other predictions
        {"model": lambda x: 2 * double(x)},  # the same predictions
        {"model": jax.tree_util.Partial(scaled, jnp.bfloat16(1))},  # the same logits
    ],
)
def test_a_different_call_has_its_own_file(toy, tmp_path, change):
    whole, count = kept_curve(tmp_path), len(toy)
    kept_curve(tmp_path, **change)
    assert len(list(tmp_path.iterdir())) == 2 and len(toy) > count
    count = len(toy)
    kept_curve(tmp_path, **change)
    assert_same(kept_curve(tmp_path), whole)
    assert len(toy) == count


# --- real attacks ---

SIDE, NUM_CLASSES = 4, 5
WEIGHTS = np.random.default_rng(0).normal(size=(SIDE * SIDE * 3, NUM_CLASSES)).astype(np.float32)


def linear(x):
    return x.reshape(len(x), -1) @ WEIGHTS


def linear_images(count):
    """Images and labels; every eighth label is wrong."""
    images = images_with_corners((count, SIDE, SIDE, 3), seed=1)
    labels = np.argmax(images.reshape(count, -1) @ WEIGHTS, axis=1)
    labels[::8] = (labels[::8] + 1) % NUM_CLASSES
    return images, labels


def exact_margins(images, labels, epsilon, num_classes=NUM_CLASSES):
    """The largest margin in ball and box, in float64: coordinate by coordinate, class by class."""
    x, weights = images.reshape(len(images), -1).astype(float), WEIGHTS.astype(float)
    found = []
    for pixels, label in zip(x, labels, strict=True):
        towards = [weights[:, k] - weights[:, label] for k in range(num_classes) if k != label]
        found.append(max(w @ np.clip(pixels + epsilon * np.sign(w), 0, 1) for w in towards))
    return np.array(found)


@pytest.fixture
def short(monkeypatch):
    """Few steps: linear models need no more."""
    monkeypatch.setattr(ensemble, "NUM_STEPS", 10)
    monkeypatch.setattr(ensemble, "NUM_QUERIES", 20)
    monkeypatch.setattr(ensemble, "NUM_SAMPLES", 2)


def test_outcomes_on_a_linear_model_are_exact_for_every_batch(short):
    """Real runs also log AutoAttack's lines. Nine images have two shapes of batches."""
    images, labels = linear_images(9)
    epsilon = 0.03
    margins = exact_margins(images, labels, epsilon)
    assert np.abs(margins).min() > 0.01 and 3 <= np.sum(margins < 0) <= 6
    log = []
    call = {"p": INF, "epsilon": epsilon}
    result = autoattack(linear, images, labels, batch_size=4, log=log.append, **call)
    np.testing.assert_array_equal(result.robust, margins < 0)
    check_perturbation(result.images, images, p=INF, epsilon=epsilon)
    assert all(any(re.fullmatch(line, text) for line in LINES) for text in log), log
    mates = autoattack(linear, images[::-1], labels[::-1], batch_size=8, **call)
    np.testing.assert_array_equal(mates.robust[::-1], result.robust)
    # Two classes are attacked by their margin.
    labels = np.argmax(images.reshape(9, -1) @ WEIGHTS[:, :2], axis=1)
    margins = exact_margins(images, labels, 0.06, num_classes=2)
    assert np.abs(margins).min() > 0.01 and 3 <= np.sum(margins < 0) <= 6
    call = {"logits_fn": lambda x: linear(x)[:, :2], "attacks": ["apgd-t"], "batch_size": 16}
    result = linf(images, labels, epsilon=0.06, **call)
    np.testing.assert_array_equal(result.robust, margins < 0)


PROGRAM = "import sys; from tests.attacks import test_autoattack as t; t.one_device(sys.argv[1])"


def few_attacks(images, labels):
    call = {"p": INF, "epsilon": 0.03, "attacks": ("apgd-ce", "square"), "batch_size": 4}
    return autoattack(linear, images, labels, **call)


def one_device(path):
    """In a process with one device, attack the images in a file and write the outcomes to it."""
    ensemble.NUM_STEPS, ensemble.NUM_QUERIES = 10, 20
    assert jax.local_device_count() == 1
    data = np.load(path)
    result = few_attacks(data["images"], data["labels"])
    np.savez(path, fooled_by=result.fooled_by, found=result.images)


def test_one_device_finds_what_several_find(short, tmp_path):
    images, labels = linear_images(9)
    np.savez(tmp_path / "images.npz", images=images, labels=labels)
    environment = os.environ | {"XLA_FLAGS": forked.xla_flags(1)}
    call = [sys.executable, "-c", PROGRAM, str(tmp_path / "images.npz")]
    done = subprocess.run(call, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    one = np.load(tmp_path / "images.npz")
    assert jax.local_device_count() > 1
    several = few_attacks(images, labels)
    assert one["fooled_by"].tolist() == several.fooled_by.tolist()
    assert len(set(several.fooled_by)) >= 3
    np.testing.assert_allclose(one["found"], several.images, rtol=0, atol=1e-6)


def test_a_model_without_gradients_gives_both_warnings(short):
    """The logits are rounded; three classes are the fewest for the DLR loss."""

    def rounded(x):
        exact = (x.reshape(len(x), -1) @ WEIGHTS[:, :3]) * 4
        return jnp.round(exact) + jnp.array([0.1, 0.0, -0.1])

    images = np.random.default_rng(3).uniform(0.3, 0.7, (12, SIDE, SIDE, 3)).astype(np.float32)
    labels = np.argmax(rounded(images), axis=1)
    call = {"logits_fn": rounded, "attacks": ["apgd-dlr", "square"], "batch_size": 12}
    result = linf(images, labels, epsilon=0.25, **call)
    zero, square = result.warnings
    left = result.attacks[1].num_attacked
    assert left >= 3 and not result.robust.all()
    assert zero.startswith("there are 12 points with zero gradient (or NaN) in apgd-dlr. See docs/")
    lowered = result.attacks[0].robust_accuracy - result.robust_accuracy
    assert square.startswith(f"Square has lowered the robust accuracy by {lowered:.2%}.")
    call = {"logits_fn": rounded, "attacks": ["apgd-t"]}  # the margin vanishes too
    (warning,) = linf(images[:3], labels[:3], epsilon=1e-4, **call).warnings
    assert warning.startswith("there are 3 points with zero gradient (or NaN) in apgd-t")


PASSES = (("apgd-ce", 1), ("apgd-t", INF), ("fab-t", INF), ("square", INF))


@pytest.mark.parametrize("attack, p", PASSES)
def test_reported_passes_are_those_made(short, attack, p):
    """They are counted inside the model, except those that ask whether it is random."""
    made = []

    def counted(x):
        jax.debug.callback(lambda: made.append(len(x)))
        return double(x)

    images, labels = grey(*[0.9] * 4)
    call = {"p": p, "epsilon": 1e-3, "attacks": [attack], "batch_size": 4}
    (cost,) = autoattack(counted, images, labels, **call).attacks
    jax.effects_barrier()
    assert sum(made) == cost.gradients + cost.forwards + 2 * 4


def test_a_random_model_is_attacked_with_keys(short):
    """Noise alone fools half of the time if the margin is small."""

    def noisy(x, key):
        return double(x).at[:, 1].add(0.01 * jax.random.normal(key, (len(x),)))

    images, labels = grey(0.9, 0.55, 0.2, 0.65)
    result = linf(images, labels, epsilon=0.2, logits_fn=noisy, version="rand", attacks=["apgd-ce"])
    assert result.fooled_by.tolist() == ["", "apgd-ce", "clean", "apgd-ce"]
    assert result.warnings == () and result.attacks[0].gradients == 3 * 11 * 2
