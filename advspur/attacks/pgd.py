"""Projected gradient ascent on the loss, inside an l_p ball and the pixel box.

    x_{t+1} = clip(x_0 + P_ball(x_t + a v(grad_x sum_i loss_i) - x_0), bounds)

with v the steepest ascent direction of the norm and P the Euclidean projection, per image
(Madry et al., ICLR 2018, arXiv 1706.06083). As in the `robustness` library, inputs are in [0, 1],
`logits_fn` normalises them, and the iterate of highest loss, start included, is returned.
`logits_fn` must not change state: run the network with frozen batch statistics.

>>> logits_fn = lambda x: jnp.stack([x.sum((1, 2, 3)), -x.sum((1, 2, 3))], axis=1)
>>> x = jnp.full((1, 2, 2, 1), 0.5)
>>> adv = pgd(logits_fn, x, jnp.array([0]), p=math.inf, epsilon=0.25, num_steps=2)
>>> float(adv.max())
0.25
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from advspur._checks import attack_arrays, check_choice, check_count, check_nonnegative, require
from advspur._convolutions import for_loops
from advspur.attacks import parts
from advspur.attacks.box import confine
from advspur.attacks.losses import loss_function
from advspur.norms import steepest_ascent

RANDOM_STARTS = ("none", "ball", "sphere")
# For p = 1, the share of the coordinates that the first step moves, falling geometrically to one
# coordinate in the last step. Gradient entries that point out of the box are dropped first.
L1_SHARE = 0.05


def pgd(
    logits_fn,
    images,
    labels,
    key=None,
    *,
    p,
    epsilon,
    num_steps,
    step_size=None,
    random_start="none",
    restarts=1,
    loss="cross_entropy",
    budget_weights=None,
    bounds=(0.0, 1.0),
):
    """Return adversarial images in the l_p ball of radius `epsilon` around `images`.

    With `budget_weights` w the budget differs by pixel, ||delta / w||_p <= epsilon; steps and
    projections are then those of the ball of delta / w.

    Args:
      logits_fn: [n, h, w, c] images -> [n, num_classes] logits, a pure function that JAX can trace.
      images: [n, h, w, c] float inside `bounds`.
      labels: [n] int, the true classes.
      key: PRNG key, or one per image; needed only with a random start.
      p: 1, 2 or inf.
      epsilon: budget in the units of `images`, a number or [n]; may be traced.
      num_steps: gradient evaluations (one more forward pass scores the last iterate).
      step_size: l_p length of a step, a number or [n]; None: 2.5 epsilon / num_steps (l1: 10
        epsilon / num_steps).
      random_start: "none" starts at the image, "ball" uniformly in the ball, "sphere" in a
        uniformly random direction at distance epsilon (the l2 start of `robustness`).
      restarts: independent random starts; the first success is kept per image, else the largest
        loss.
      loss: "cross_entropy", "margin" (largest other logit minus the label's), "dlr", or a function
        (logits, labels) -> [n], larger is worse for the model.
      budget_weights: broadcastable to `images`, finite and >= 0: a pixel's budget in units of
        epsilon; 0 leaves it unchanged. Weights of 0 and 1 are a mask: a random start is drawn in
        the whole ball and then masked.
      bounds: smallest and largest pixel value.
    Returns:
      [n, h, w, c], inside ball and box; no gradient flows through it. Under jit, NaN for images
      with logits or gradients that are not finite.
    Raises: InputError for arguments out of range and, outside jit, for logits or gradients that
      are not finite.
    """
    images, labels, epsilon = attack_arrays(images, labels, p=p, epsilon=epsilon, bounds=bounds)
    check_choice("random_start", random_start, RANDOM_STARTS)
    check_count("num_steps", num_steps)
    check_count("restarts", restarts)
    differ = restarts == 1 or random_start != "none"
    require(differ, "restarts > 1 need random_start = 'ball' or 'sphere'; else they are all equal")
    loss = loss_function(loss, parts.count_classes(logits_fn, images, labels))
    if step_size is None:  # l1: in scripts/calibrate.py, shorter steps find less
        step_size = (10 if p == 1 else 2.5) * epsilon / num_steps
    check_nonnegative("step_size", step_size)
    step_size = jnp.broadcast_to(step_size, epsilon.shape)
    weights = parts.attack_weights(budget_weights, images)
    keys = None if random_start == "none" else parts.image_keys(key, images.shape[0])
    ball = {"p": p, "epsilon": epsilon, "bounds": bounds, "budget_weights": weights}

    def objective(x):
        logits = logits_fn(x)
        value = loss(logits, labels)
        success = jnp.argmax(logits, axis=-1) != labels
        return jnp.sum(value), (value, success, jnp.all(jnp.isfinite(logits), axis=-1))

    gradient = for_loops(jax.grad(objective, has_aux=True))

    def ascend(x, grad, count):
        grad = parts.weighted(grad, weights)
        if p == 1:
            stuck = ((x >= bounds[1]) & (grad > 0)) | ((x <= bounds[0]) & (grad < 0))
            grad = jnp.where(stuck, 0, grad)
            step = jax.vmap(lambda g: parts.largest_signs(g, count))(grad)
        else:
            step = jax.vmap(lambda g: steepest_ascent(g, p=p))(grad)
        step = parts.weighted(parts.per_image(step_size) * step, weights)
        return confine(x + step, images, **ball)

    size = math.prod(images.shape[1:])
    counts = np.geomspace(max(L1_SHARE * size, 1), 1, num_steps).round()  # used in l1 only

    def one_start(keys):
        start = images
        if keys is not None:
            start = parts.start_points(keys, images, kind=random_start, **ball)

        def body(carry, count):
            x, best, is_finite = carry
            grad, (value, success, _) = gradient(x)
            best = parts.keep(best, (x, value, success), value > best[1])
            is_finite &= jnp.all(jnp.isfinite(grad), axis=(1, 2, 3))
            return (ascend(x, grad, count), best, is_finite), None

        best = start, jnp.full_like(epsilon, -jnp.inf), jnp.zeros(epsilon.shape, bool)
        begin = start, best, jnp.ones(epsilon.shape, bool)
        (x, best, grads_are_finite), _ = jax.lax.scan(body, begin, counts)
        value, success, is_finite = objective(x)[1]
        best = parts.keep(best, (x, value, success), value > best[1])
        is_finite &= grads_are_finite & jnp.isfinite(value)
        return best[0], jnp.where(is_finite, best[1], jnp.nan), best[2]

    best, value, _ = parts.best_restart(one_start, keys, restarts)
    return parts.finished(best, jnp.isfinite(value))
