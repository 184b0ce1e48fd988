"""Checks of an attack's result, of the model's function and of its logits."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advspur import attacks
from advspur._checks import require_finite
from advspur.attacks import check_perturbation
from advspur.attacks.checks import check_logits_fn, model_warnings, perturbation_norms
from tests.attacks.oracles import NORMS
from tests.refusals import refused

SEE = "See docs/attacks.md."
LOGITS = np.array([[3.0, -1.0, 0.5], [0.0, 2.0, 1.0], [-1.0, 0.0, 4.0]], np.float32)


def moved(image, *values):
    """Return a copy with `values` added to the first pixels."""
    image = image.copy()
    image.reshape(-1)[: len(values)] += values
    return image


GREY = np.full((1, 2, 2, 3), 0.5)


@pytest.mark.parametrize("p, norm", ((1, 0.7), (2, 0.5), (math.inf, 0.4)))
def test_norms_by_hand(p, norm):
    images = np.concatenate([GREY, GREY])
    adversarial = np.concatenate([GREY, moved(GREY, 0.3, -0.4)])
    np.testing.assert_allclose(perturbation_norms(adversarial, images, p=p), [0, norm], rtol=1e-12)
    check_perturbation(adversarial, images, p=p, epsilon=norm)
    check_perturbation(adversarial, images, p=p, epsilon=np.array([0, norm]))
    call = {"p": p, "epsilon": np.array([norm, 0])}
    refused(f"left the l{p:g} ball", check_perturbation, adversarial, images, **call)


@pytest.mark.parametrize("p", NORMS)
def test_the_ball_has_a_tolerance_of_one_in_a_million(p):
    check_perturbation(moved(GREY, 0.4 * (1 + 0.9e-6)), GREY, p=p, epsilon=0.4)
    beyond, message = moved(GREY, 0.4 * (1 + 1.2e-6)), "is 0.400000.*, its epsilon 0.4"
    refused(message, check_perturbation, beyond, GREY, p=p, epsilon=0.4)


def test_norms_of_float32_images_are_taken_in_float64():
    """10^6 pixels of 1e-4 each: float32 sums are off by more than one in a million."""
    images = np.full((1, 1000, 1000, 1), 0.3, np.float32)
    adversarial = images + np.float32(1e-4)
    step = np.float64(adversarial.flat[0]) - np.float64(images.flat[0])
    for p, norm in ((1, 1e6 * step), (2, 1e3 * step)):
        np.testing.assert_allclose(perturbation_norms(adversarial, images, p=p), norm, rtol=1e-12)


@pytest.mark.parametrize("bounds", ((0.0, 1.0), (-1.0, 2.0)))
def test_the_box_has_no_tolerance(bounds):
    for end, beyond in zip(bounds, (-math.inf, math.inf), strict=True):
        edge, call = moved(GREY, end - 0.5), {"p": math.inf, "epsilon": 2, "bounds": bounds}
        check_perturbation(edge, GREY, **call)
        refused("left the box", check_perturbation, np.nextafter(edge, beyond), GREY, **call)


def test_images_not_finite_or_of_another_shape_are_refused():
    for pixel in (math.nan, math.inf, -math.inf):
        images = np.concatenate([GREY, moved(GREY, pixel), GREY])
        message = "pixels .* are not finite for 1 of 3 images, first image 1"
        refused(message, check_perturbation, images, images, p=2, epsilon=9)
    image, call = np.zeros((2, 1, 1, 1)), {"epsilon": 0.1}
    refused("p = 3: the norm", check_perturbation, image, image, p=3, **call)
    message = r"shape \(1, 1, 1, 1\), images \(2, 1, 1, 1\)"
    refused(message, check_perturbation, image[:1], image, p=math.inf, **call)


def test_an_empty_batch_has_no_norms():
    none = np.zeros((0, 2, 2, 3), np.float32)
    assert perturbation_norms(none, none, p=2).shape == (0,)
    check_perturbation(none, none, p=1, epsilon=0.1)


@pytest.mark.parametrize("value", (math.nan, math.inf, -math.inf))
def test_logits_not_finite_are_an_error_that_names_the_first_image(value):
    require_finite("the logits", [7, 8, 9], LOGITS)
    logits = LOGITS.copy()
    logits[1:, 2] = value
    expected = "the logits are not finite for 2 of 3 images, first image 8: check the model"
    refused(expected, require_finite, "the logits", [7, 8, 9], LOGITS, logits)


def test_different_logits_give_a_warning_and_different_predictions_an_error():
    """A random model is expected to differ."""
    for again in (LOGITS, LOGITS[:2], LOGITS * (1 + 5e-5)):
        assert model_warnings(LOGITS, again, is_random=False) == []
    expected = [f"two calls give different logits: it seems to be a randomized defense! {SEE}"]
    again = LOGITS[:2] * np.array([[1.0], [1 + 2e-4]], np.float32)  # one image is enough
    assert model_warnings(LOGITS, again, is_random=False) == expected
    other, message = LOGITS[:2, [0, 2, 1]], "for 1 of 2 images; use version='rand'"
    refused(message, model_warnings, LOGITS, other, is_random=False)
    for differing in (again, other):
        assert model_warnings(LOGITS, differing, is_random=True) == []


def test_probabilities_give_a_warning():
    probabilities = np.float32([[0.2, 0.3, 0.5], [0.0, 1.0, 0.0]])
    expected = [f"it seems that the output is a probability distribution, not logits! {SEE}"]
    for is_random in (False, True):
        assert model_warnings(probabilities, probabilities, is_random=is_random) == expected
    for logits in (
        probabilities + np.float32([[0, 0, 0], [0.01, 0, 0]]),  # sum
        np.float32([[0.2, 0.3, 0.5], [1.5, -0.5, 0.0]]),  # range
        np.float32([[0.2, 0.3, 0.5], [0.5, 0.6, -0.1]]),  # sign
        np.log(probabilities + np.float32(0.01)),
    ):
        assert model_warnings(logits, logits, is_random=False) == []


class Logits:
    """Like a Classifier, it has a function of images but is not one."""

    def logits(self, images):
        return images[:, 0, 0]


NOT_JAX = "is not a JAX function of its images: it needs"
FUNCTIONS = {  # what a user may give for logits_fn, and the message
    "a tuple": (lambda x: (linear(x), x), "of type tuple; it must return only the logits"),
    "a list": (lambda x: [linear(x)], "of type list; it must return only the logits"),
    "a dict": (lambda x: {"logits": linear(x)}, "of type dict; it must return only the logits"),
    "nothing": (lambda x: None, "of type NoneType; it must return only the log"),
    "text": (lambda x: "cat", "returned a value of type <class 'str'>.* not a valid JAX type"),
    "NumPy": (lambda x: np.tile(np.asarray(x)[:, 0, 0], 2), "as NumPy and PyTorch do.*jax.numpy"),
    "a NumPy product": (lambda x: np.dot(x[:, 0, 0], np.eye(3)), NOT_JAX),
    "a branch": (lambda x: linear(x) if x.max() > 0.5 else 0, NOT_JAX),
    "a number": (lambda x: float(x.sum()), NOT_JAX),
    "an index": (lambda x: linear(x)[int(x.sum()) :], NOT_JAX),
    "a loop": (lambda x: linear(x) + len(range(int(x.max()))), NOT_JAX),
    "classes": (lambda x: jnp.argmax(linear(x), axis=-1), r"have shape \(2,\); expected \[2, num"),
    "integers": (lambda x: (9 * linear(x)).astype(int), "the logits have dtype int32; expected fl"),
    "truth": (lambda x: linear(x) > 0, "the logits have dtype bool; expected floats"),
    "complex": (lambda x: linear(x) + 0j, "the logits have dtype complex64; expected floats"),
    "one class": (lambda x: linear(x)[:, :1], r"have shape \(2, 1\); expected \[2, num"),
    "PyTorch": (lambda x: like_torch(x), r"not a JAX function .*conv2d\(\) got an invalid"),
    "a map": (lambda x: x, r"have shape \(2, 4, 4, 3\); expected \[2, num"),
    "one row": (lambda x: linear(x)[:1], r"have shape \(1, 3\); expected \[2, num"),
    "a scalar": (lambda x: linear(x).sum(), r"have shape \(\); expected \[2, num"),
    "a Classifier": (Logits(), "has type Logits; give .* such as classifier.logits"),
    "no function": (3, "logits_fn has type int; give a function of images"),
    "an array": (LOGITS, "logits_fn has type ndarray; give a function of images"),
}


def like_torch(x):
    """Raise what a torch module raises when given a tracer."""
    raise TypeError(f"conv2d() got an invalid combination of arguments: ({type(x).__name__})")


PICTURES, LABELS = np.full((2, 4, 4, 3), 0.5, np.float32), np.array([0, 1])
PICTURES[1, 0, 0] = 0.25, 0.5, 0.75
KEY = jax.random.key(0)
ATTACKS = {
    "pgd": functools.partial(attacks.pgd, num_steps=2),
    "fgsm": functools.partial(attacks.fgsm, key=KEY),
    "apgd": functools.partial(attacks.apgd, key=KEY, num_steps=2),
    "fab": functools.partial(attacks.fab, num_steps=2),
    "square": functools.partial(attacks.square, key=KEY, num_queries=2),
    "autoattack": attacks.autoattack,
}


def linear(x):
    return x[:, 0, 0] @ jnp.eye(3)


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_every_attack_refuses_functions_that_return_no_logits(kind):
    function, message = FUNCTIONS[kind]
    refused(message, check_logits_fn, function, PICTURES)
    for attack in ATTACKS.values():
        refused(message, attack, function, PICTURES, LABELS, p=math.inf, epsilon=0.1)


def test_functions_that_return_logits_are_accepted():
    for function in (linear, jax.jit(linear), lambda x: linear(x).astype(jnp.bfloat16)):
        assert check_logits_fn(function, PICTURES) == 3
    assert check_logits_fn(lambda x: np.zeros((2, 5), np.float32), PICTURES) == 5  # a constant


def broken(what, value=1.0):
    """A linear model that is not finite if the red of the first pixel is below 0.4.

    `what` is not finite: all "logits", "one logit", or only the "gradient".
    """

    def bend(x, bad):
        if what == "gradient":
            root = jnp.sqrt(jnp.where(bad, 0 * x, 1))  # an infinite slope times 0
            return jnp.where(bad, value * root, 0)
        return jnp.where(bad, value, 0)

    def logits_fn(x):
        bad = (x[:, 0, 0, 0] < 0.4)[:, None]
        where = jnp.ones(3, bool) if what != "one logit" else jnp.arange(3) == 1
        return linear(x) + bend(x[:, 0, 0], bad & where)

    return logits_fn


@pytest.mark.parametrize("name", ATTACKS)
def test_logits_or_gradients_not_finite_stop_every_attack(name):
    """The argmax of NaN is class 0, so it would count as a prediction."""
    is_first = name in ("pgd", "apgd", "square")
    what, value = ("logits", math.nan) if is_first else ("one logit", -math.inf)
    cases = [(math.inf, broken(what, value))]
    cases += [(p, broken("gradient")) for p in {"pgd": (1, 2), "fgsm": (math.inf,)}.get(name, ())]
    for p, function in cases:
        message = "are not finite for 1 of 2 images, first image 1"
        refused(message, ATTACKS[name], function, PICTURES, LABELS, p=p, epsilon=0.1)


@pytest.mark.parametrize(
    "name, value",
    [("pgd", math.nan), ("apgd", -math.inf), ("fab", math.nan), ("square", -math.inf)],
)
def test_logits_not_finite_away_from_the_image_are_an_error(name, value):
    """They are finite at the image; a class other than the label's keeps the loss finite."""
    images = np.full((1, 4, 4, 3), 0.5, np.float32)

    def logits_fn(x):
        bad = jnp.any(jnp.abs(x - 0.5) > 1e-3, axis=(1, 2, 3))
        logits = linear(x) + jnp.array([0.1, 0, 0])
        return jnp.where(bad[:, None] & (jnp.arange(3) == 2), value, logits)

    message, labels = "are not finite for 1 of 1 images, first image 0", np.array([0])
    refused(message, ATTACKS[name], logits_fn, images, labels, p=math.inf, epsilon=0.2)


def test_a_restart_with_logits_not_finite_is_an_error():
    images = np.full((2, 4, 4, 3), 0.5, np.float32)

    def logits_fn(x):
        bad = x[:, 1, 1, 1] > 0.5  # for about half of the random starts
        return jnp.where(bad[:, None], jnp.nan, linear(x))

    call = {"p": math.inf, "epsilon": 0.1, "random_start": "ball", "restarts": 8}
    message = "are not finite for 2 of 2 images"
    refused(message, ATTACKS["pgd"], logits_fn, images, LABELS, KEY, **call)


def test_under_jit_images_with_logits_not_finite_are_nan():
    logits_fn = broken("logits", math.nan)
    for name in ("pgd", "fgsm", "fab"):
        attack = jax.jit(functools.partial(ATTACKS[name], logits_fn, p=math.inf, epsilon=0.1))
        found = np.asarray(attack(PICTURES, LABELS))
        assert np.all(np.isfinite(found[0])) and np.all(np.isnan(found[1])), name


def test_apgd_and_autoattack_warn_of_gradients_not_finite_and_continue():
    with pytest.warns(UserWarning, match=r"1 points with zero gradient \(or NaN\) in apgd"):
        found = ATTACKS["apgd"](broken("gradient"), PICTURES, LABELS, p=math.inf, epsilon=0.1)
    assert np.all(np.isfinite(found))
    labels = np.array([0, 2])
    call = {"p": math.inf, "epsilon": 0.1, "attacks": ("apgd-ce",)}
    result = attacks.autoattack(broken("gradient"), PICTURES, labels, **call)
    assert any("1 points with zero gradient (or NaN) in apgd-ce" in w for w in result.warnings)
    assert np.all(np.isfinite(result.images))
