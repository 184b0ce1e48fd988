"""One gradient step from a random start: the attacks of fast adversarial training.

    x' = clip(x + eta, bounds), eta uniform in the l_p ball of radius `noise` epsilon
    x'' = clip(x' + a v(grad_x' loss), bounds)

with v the steepest ascent direction of the norm. "fgsm_rs" has noise = 1, a = 1.25 epsilon and
projects x'' onto the ball (Wong et al., ICLR 2020, arXiv 2001.03994). "n_fgsm" has noise = 2, a =
epsilon and does not project, so x'' may be 3 epsilon away (de Jorge et al., NeurIPS 2022, arXiv
2202.01181). Both were published for linf. The cost is one gradient.
"""

import math

import jax
import jax.numpy as jnp

from advspur._checks import attack_arrays, check_choice, check_norm
from advspur._convolutions import for_loops
from advspur.attacks import parts
from advspur.attacks.box import confine
from advspur.attacks.losses import loss_function
from advspur.norms import steepest_ascent

# (noise and step in units of epsilon, whether the result is projected onto the ball)
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
    """Return images [n, h, w, c] one gradient step away from `images` with noise.

    Arguments as in `pgd`, except:

    Args:
      p: 2 or inf.
      method: "fgsm_rs" or "n_fgsm".
    """
    check_norm(p, (2.0, math.inf))
    images, labels, epsilon = attack_arrays(images, labels, p=p, epsilon=epsilon, bounds=bounds)
    check_choice("method", method, tuple(FGSM_METHODS))
    loss = loss_function(loss, parts.count_classes(logits_fn, images, labels))
    noise, step, projects = FGSM_METHODS[method]
    weights = parts.attack_weights(budget_weights, images)
    keys = parts.image_keys(key, len(images))
    ball = {"p": p, "bounds": bounds, "budget_weights": weights}
    start = parts.start_points(keys, images, kind="ball", epsilon=noise * epsilon, **ball)

    def objective(x):
        logits = logits_fn(x)
        return jnp.sum(loss(logits, labels)), jnp.all(jnp.isfinite(logits), axis=-1)

    grad, is_finite = for_loops(jax.grad(objective, has_aux=True))(start)
    is_finite &= jnp.all(jnp.isfinite(grad), axis=(1, 2, 3))
    direction = jax.vmap(lambda g: steepest_ascent(g, p=p))(parts.weighted(grad, weights))
    moved = start + parts.weighted(parts.per_image(step * epsilon) * direction, weights)
    if projects:
        moved = confine(moved, images, epsilon=epsilon, **ball)
    return parts.finished(jnp.clip(moved, *bounds), is_finite)
