"""One gradient step from a random start: the attacks of fast adversarial training.

    x' = clip(x + eta, bounds), eta uniform in the l_p ball of radius `noise` epsilon
    x'' = clip(x' + a v(grad_x' loss), bounds)

with v the steepest ascent direction of the norm. "fgsm_rs" has noise = 1, a = 1.25 epsilon, and
projects x'' on the ball (Wong et al., ICLR 2020, arXiv 2001.03994). "n_fgsm" has noise = 2, a =
epsilon and does not, so x'' may lie 3 epsilon away (de Jorge et al., NeurIPS 2022, arXiv
2202.01181). Both are published for linf. No iterate is looked at: it costs one gradient.
"""

import math

import jax
import jax.numpy as jnp

from advspur._checks import attack_arrays, check_choice, check_norm
from advspur._convolutions import for_loops
from advspur.attacks.box import confine
from advspur.attacks.losses import loss_function
from advspur.attacks.parts import (
    attack_weights,
    count_classes,
    finished,
    image_keys,
    per_image,
    start_points,
    weighted,
)
from advspur.norms import steepest_ascent

# (noise and step in units of epsilon, whether the result is projected on the ball)
FGSM_METHODS = {"fgsm_rs": (1.0, 1.25, True), "n_fgsm": (2.0, 1.0, False)}


def fgsm(
    logits_fn,
    images,
    labels,
    key,
    *,
    p,
    epsilon,
    method="n_fgsm",
    loss="cross_entropy",
    budget_weights=None,
    bounds=(0.0, 1.0),
):
    """Images [n, h, w, c] one step of the gradient's sign from `images` with noise; see `pgd`.

    Args:
      p: 2 or inf.
      method: "fgsm_rs" or "n_fgsm".
    """
    check_norm(p, (2.0, math.inf))
    images, labels, epsilon = attack_arrays(images, labels, p=p, epsilon=epsilon, bounds=bounds)
    check_choice("method", method, tuple(FGSM_METHODS))
    loss = loss_function(loss, count_classes(logits_fn, images, labels))
    noise, step, projects = FGSM_METHODS[method]
    weights = attack_weights(budget_weights, images)
    keys, ball = image_keys(key, len(images)), {"p": p, "bounds": bounds, "budget_weights": weights}
    start = start_points(keys, images, kind="ball", epsilon=noise * epsilon, **ball)

    def objective(x):
        logits = logits_fn(x)
        return jnp.sum(loss(logits, labels)), jnp.all(jnp.isfinite(logits), axis=-1)

    grad, is_finite = for_loops(jax.grad(objective, has_aux=True))(start)
    is_finite &= jnp.all(jnp.isfinite(grad), axis=(1, 2, 3))
    direction = jax.vmap(lambda g: steepest_ascent(g, p=p))(weighted(grad, weights))
    moved = start + weighted(per_image(step * epsilon) * direction, weights)
    if projects:
        moved = confine(moved, images, epsilon=epsilon, **ball)
    return finished(jnp.clip(moved, *bounds), is_finite)
