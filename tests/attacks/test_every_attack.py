"""Properties of every attack: one table over attacks and norms, compiled once each."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advspur.attacks import apgd, check_perturbation, fab, fgsm, linear_oracle, pgd, square
from tests.attacks import oracles
from tests.refusals import refused

N, SHAPE, CLASSES = 6, (4, 5, 2), 4
IMAGES = oracles.images_with_corners((N, *SHAPE))
PARAMS = oracles.random_params((N, *SHAPE), CLASSES)
LABELS = np.argmax(oracles.logits_of(PARAMS, IMAGES), axis=1)
KEYS = jax.random.split(jax.random.key(3), N)
EPSILON = {1: 2.0, 2: 0.5, math.inf: 0.12}
ATTACKS = {
    "pgd": functools.partial(pgd, num_steps=5, random_start="ball", restarts=2),
    "fgsm": functools.partial(fgsm, method="fgsm_rs"),
    "apgd": functools.partial(apgd, num_steps=12, loss="margin"),
    "fab": functools.partial(fab, num_steps=10, restarts=2),
    "square": functools.partial(square, num_queries=60),
}
CASES = [(name, p) for name in ATTACKS for p in oracles.NORMS if (name, p) != ("fgsm", 1)]
every_attack = pytest.mark.parametrize("name, p", CASES)

pytestmark = pytest.mark.filterwarnings("ignore:epsilon = ")


@functools.partial(jax.jit, static_argnames=("name", "p"))
def run(params, images, labels, keys, epsilon, *, name, p):
    logits_fn = functools.partial(oracles.network, params)
    return ATTACKS[name](logits_fn, images, labels, keys, p=p, epsilon=epsilon)


def attack(name, p, params=PARAMS, images=IMAGES, labels=LABELS, keys=KEYS, epsilon=None):
    epsilon = np.broadcast_to(np.float32(EPSILON[p] if epsilon is None else epsilon), N)
    return np.asarray(run(params, images, labels, keys, epsilon, name=name, p=p))


@every_attack
def test_ball_and_box_hold_and_each_image_has_its_own_epsilon(name, p):
    epsilon = EPSILON[p] * np.float32([0, 0.2, 0.5, 1, 2, 5])
    got = attack(name, p, epsilon=epsilon)
    check_perturbation(got, IMAGES, p=p, epsilon=epsilon)
    np.testing.assert_array_equal(got[0], IMAGES[0])
    lost = np.argmax(oracles.logits_of(PARAMS, got), axis=1) != LABELS
    assert 0 < lost.sum() < N
    if name == "fab":
        np.testing.assert_array_equal(got[~lost], IMAGES[~lost])


@every_attack
def test_an_image_does_not_depend_on_its_batch(name, p):
    got, order = attack(name, p), np.array([3, 0, 5, 1, 4, 2])
    permuted = attack(name, p, images=IMAGES[order], labels=LABELS[order], keys=KEYS[order])
    np.testing.assert_allclose(permuted, got[order], rtol=0, atol=1e-5)
    company = np.concatenate([IMAGES[:1], 1 - IMAGES[1:]])
    others = attack(name, p, images=company, keys=KEYS.at[1:].set(KEYS[0]))
    np.testing.assert_allclose(others[0], got[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "name, p", [case for case in CASES if case[0] in ("apgd", "fab", "square")]
)
def test_images_already_misclassified_are_returned_unchanged(name, p):
    """Exactly these images are misclassified, and no other point nearby."""
    params = oracles.linear_params((N, *SHAPE), 1e-3 * PARAMS["A"], [9, 0, 0, 0])
    params |= {"spot": IMAGES, "jump": np.float32(20)}
    np.testing.assert_array_equal(attack(name, p, params, labels=np.zeros(N, int)), IMAGES)


def shortest(name, images=IMAGES, labels=LABELS, key=KEYS, **options):
    """The shortest run of an attack, outside jit."""
    logits_fn = options.pop("logits_fn", functools.partial(oracles.network, PARAMS))
    fewest = {"fgsm": {}, "square": {"num_queries": 1}}.get(name, {"num_steps": 1})
    call = {"p": 2, "epsilon": 0.1} | fewest | options
    return ATTACKS[name].func(logits_fn, images, labels, key, **call)


@pytest.mark.parametrize("name", ATTACKS)
def test_no_gradient_flows_through_an_attack(name):
    grad = jax.jit(jax.grad(lambda x: jnp.sum(shortest(name, x))))(IMAGES)
    np.testing.assert_array_equal(grad, np.zeros_like(IMAGES))


@pytest.mark.parametrize("name", ATTACKS)
def test_16_bit_images_are_attacked_in_32_bits(name):
    for dtype in ("bfloat16", "float16"):
        images = jnp.asarray(IMAGES, dtype)
        found = jax.eval_shape(functools.partial(shortest, name), images)
        assert found.dtype == jnp.float32 and found.shape == IMAGES.shape


TARGETS = (LABELS + 1) % CLASSES
ONES = np.ones(N, int)
TWO_CLASSES = {"logits_fn": lambda x: x[:, 0, 0], "labels": 0 * ONES}
THREE_CLASSES = {"logits_fn": lambda x: x[:, 0, :3, 0], "labels": 0 * ONES}
BAD = [  # attacks, arguments, message
    (ATTACKS, {"images": np.where(IMAGES == 0, math.nan, IMAGES)}, "images contain NaN"),
    (ATTACKS, {"images": IMAGES * 255}, r"images are in .*expected \[0, 1\]"),
    (ATTACKS, {"images": IMAGES - 0.6}, "images are in"),
    (ATTACKS, {"images": IMAGES.astype("uint8")}, "images have dtype uint8"),
    (ATTACKS, {"images": IMAGES[0]}, "images have shape"),
    (ATTACKS, {"labels": LABELS[:2]}, "labels have shape"),
    (ATTACKS, {"labels": LABELS.astype("float32")}, "labels have shape .* and dtype float32"),
    (ATTACKS, {"labels": LABELS + 4}, r"labels are in \[\d, \d\]; the model has 4 classes"),
    (ATTACKS, {"labels": LABELS - 4}, r"labels are in \[-\d, -?\d\]; the model has 4 classes"),
    (ATTACKS, {"p": 3}, "p = 3: the norm must be one of "),
    (ATTACKS, {"p": "inf"}, "p = 'inf'"),
    (["fgsm"], {"p": 1}, "p = 1: the norm must be one of 2, inf"),
    (ATTACKS, {"epsilon": -0.1}, "epsilon = -0.1"),
    (ATTACKS, {"epsilon": math.nan}, "epsilon = nan"),
    (ATTACKS, {"epsilon": np.float32([0.1, 0.2])}, r"epsilon has shape \(2,\)"),
    (ATTACKS, {"bounds": (1.0, 0.0)}, r"bounds = \(1.0, 0.0\)"),
    (["pgd"], {"random_start": "ball", "key": None}, "needs a PRNG key"),
    (["fgsm", "apgd", "square"], {"key": None}, "needs a PRNG key"),
    (["fab"], {"restarts": 2, "key": None}, "needs a PRNG key"),
    (["fgsm", "apgd", "square"], {"key": KEYS[:2]}, r"key has shape \(2,\)"),
    (["pgd", "apgd", "fab"], {"num_steps": 0}, "num_steps = 0"),
    (["pgd"], {"num_steps": 2.5}, "num_steps = 2.5"),
    (["square"], {"num_queries": 0}, "num_queries = 0"),
    (["pgd", "fab"], {"restarts": 0}, "restarts = 0"),
    (["pgd"], {"restarts": 2}, "restarts > 1 need random_start"),
    (["fab"], {"restarts": 2, "epsilon": None}, "restarts > 1 need epsilon"),
    (["pgd"], {"step_size": math.nan}, "step_size = nan"),
    (["pgd"], {"step_size": -1.0}, "step_size = -1.0"),
    (["pgd"], {"random_start": "cube"}, "random_start = 'cube' is not known"),
    (["pgd", "fgsm"], {"budget_weights": -1.0}, "budget_weights must be finite and >= 0"),
    (["pgd", "fgsm"], {"budget_weights": math.inf}, "budget_weights must be finite and >= 0"),
    (["pgd", "fgsm"], {"budget_weights": np.ones(3)}, r"budget_weights have shape \(3,\)"),
    (["fgsm"], {"method": "fgsm"}, "method = 'fgsm' is not known; allowed: 'fgsm_rs', 'n_fgsm'"),
    (["pgd", "fgsm", "apgd"], {"loss": "hinge"}, "loss = 'hinge' is not known"),
    (["pgd", "fgsm", "apgd"], TWO_CLASSES | {"loss": "dlr"}, "needs 3 classes, the model has 2"),
    (["apgd"], THREE_CLASSES | {"loss": "dlr", "targets": ONES}, "needs 4 classes"),
    (["apgd", "fab"], {"targets": LABELS}, "targets must be classes from 0 to 3, and not the la"),
    (["apgd", "fab"], {"targets": TARGETS + 4}, "targets must be classes"),
    (["apgd", "fab"], {"targets": TARGETS[:3]}, "targets have shape"),
]


@pytest.mark.parametrize("names, change, message", BAD)
def test_bad_arguments_are_refused_by_name(names, change, message):
    for name in names:
        refused(message, shortest, name, **change)


@pytest.mark.parametrize("name", ATTACKS)
def test_epsilon_in_8_bit_units_gives_a_warning(name):
    for p, epsilon, mend in ((math.inf, 8, r"8/255 = 0\.03137"), (2, 128, r"128/255 = 0\.50196")):
        with pytest.warns(UserWarning, match=mend):
            jax.eval_shape(lambda x, p=p, e=epsilon: shortest(name, x, p=p, epsilon=e), IMAGES)


def test_the_oracle_refuses_bad_arguments_by_name():
    weights, bias = np.zeros((*SHAPE, 3), "float32"), np.zeros(3, "float32")
    call = {"weights": weights, "bias": bias, "images": IMAGES, "labels": 0 * LABELS}
    for change, message in (
        ({"weights": weights[:1]}, "weights have shape"),
        ({"bias": bias[:2]}, "weights have shape"),
        ({"p": 3}, "p = 3"),
        ({"epsilon": -1.0}, "epsilon = -1"),
        ({"images": IMAGES + 9}, "images are in"),
        ({"labels": LABELS[:2]}, "labels have shape"),
    ):
        refused(message, linear_oracle.worst_case, **({"p": 2, "epsilon": 1.0} | call | change))
