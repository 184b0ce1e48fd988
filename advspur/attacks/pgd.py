"""Projected gradient ascent on the loss, inside an l_p ball and the pixel box.

    x_{t+1} = clip(x_0 + P_ball(x_t + a v(grad_x sum_i loss_i) - x_0), bounds)

with v the steepest ascent direction of the norm and P the Euclidean projection, per image
(Madry et al., ICLR 2018, arXiv 1706.06083). Semantics of the `robustness` library: inputs in
[0, 1], normalisation inside `logits_fn`, the iterate of highest loss is returned (the start
takes part). `logits_fn` must not change state: run the network with frozen batch statistics.

>>> logits_fn = lambda x: jnp.stack([x.sum((1, 2, 3)), -x.sum((1, 2, 3))], axis=1)
>>> x = jnp.full((1, 2, 2, 1), 0.5)
>>> adv = pgd(logits_fn, x, jnp.array([0]), p=math.inf, epsilon=0.25, num_steps=2)
>>> float(adv.max())
0.25
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax

from advspur._checks import (
    IMAGE_NORMS,
    check_choice,
    check_epsilon,
    check_images,
    check_labels,
    check_norm,
    is_concrete,
    norm_name,
    require,
)
from advspur.norms import lp_norm, project_lp_ball, sample_lp_ball, steepest_ascent

RANDOM_STARTS = ("none", "ball", "sphere")


def cross_entropy(logits, labels):
    """-log softmax(logits)[label], [n]."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def margin(logits, labels):
    """max_{k != label} logits_k - logits_label, [n]: positive where the label is lost."""
    is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    return jnp.max(logits, axis=-1, where=~is_label, initial=-jnp.inf) - jnp.sum(
        logits, axis=-1, where=is_label
    )


LOSSES = {"cross_entropy": cross_entropy, "margin": margin}


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
    targeted=False,
    mask=None,
    bounds=(0.0, 1.0),
    l1_share=0.05,
    unroll=None,
):
    """Adversarial images in the l_p ball of radius `epsilon` around `images`.

    Args:
      logits_fn: [n, h, w, c] images -> [n, num_classes] logits.
      images: [n, h, w, c] float inside `bounds`.
      labels: [n] int; the true classes, or the wanted ones if `targeted`.
      key: PRNG key; needed only with a random start.
      p: 1, 2 or inf.
      epsilon: budget in the units of `images`; a number or [n]. May be traced.
      num_steps: gradient evaluations (one more forward pass scores the last iterate).
      step_size: l_p length of a step, a number or [n]; None: 2.5 epsilon / num_steps.
      random_start: "none" starts at the image, "ball" uniformly in the ball, "sphere" in a
        uniformly random direction at distance epsilon (the l2 start of `robustness`).
      restarts: independent random starts; per image the first success wins, then the loss.
      loss: "cross_entropy" or "margin" (largest other logit minus the label's).
      targeted: lower the loss of `labels` instead of raising it.
      mask: broadcastable to `images`, 1 where a pixel may be changed, else 0. A random start
        is drawn in the whole ball and then cut to the mask.
      bounds: smallest and largest pixel value.
      l1_share: for p = 1, the share of coordinates a step moves (None: one coordinate). Of
        l1 gradients, the entries that point out of the box are dropped first.
      unroll: unroll the loop; None does so on CPU, where convolutions in a loop are slow.
    Returns:
      [n, h, w, c], inside ball and box; no gradient flows through it.
    Raises: InputError for arguments out of range.
    """
    check_norm(p, IMAGE_NORMS)
    check_epsilon(epsilon, p, bounds)
    check_images(images, bounds)
    check_labels(labels, images.shape[0])
    check_choice("random_start", random_start, RANDOM_STARTS)
    check_choice("loss", loss, tuple(LOSSES))
    require(num_steps >= 1, f"num_steps = {num_steps}: at least one step is needed")
    require(restarts >= 1, f"restarts = {restarts}: at least one start is needed")
    require(
        restarts == 1 or random_start != "none",
        "restarts > 1 need random_start = 'ball' or 'sphere': without it all are the same",
    )
    require(
        key is not None or random_start == "none",
        f"random_start = {random_start!r} needs a PRNG key",
    )
    if unroll is None:
        unroll = jax.default_backend() == "cpu"
    images, labels = jnp.asarray(images), jnp.asarray(labels)
    per_image = functools.partial(jnp.broadcast_to, shape=(images.shape[0],))
    epsilon = per_image(jnp.asarray(epsilon, images.dtype))
    step_size = 2.5 * epsilon / num_steps if step_size is None else per_image(step_size)
    mask = jnp.ones((), images.dtype) if mask is None else jnp.asarray(mask, images.dtype)
    if is_concrete(mask):
        values = np.asarray(mask)
        require(np.all((values == 0) | (values == 1)), "mask must be 0 or 1 everywhere")

    def objective(x):
        logits = logits_fn(x)
        value = LOSSES[loss](logits, labels)
        hit = jnp.argmax(logits, axis=-1) == labels
        value, success = (-value, hit) if targeted else (value, ~hit)
        return jnp.sum(value), (value, success)

    def project(x):
        delta = jax.vmap(lambda d, r: project_lp_ball(d, p=p, radius=r))(
            (x - images) * mask, epsilon
        )
        return jnp.clip(images + delta, *bounds)

    def ascend(x, grad):
        if p == 1:
            stuck = ((x >= bounds[1]) & (grad > 0)) | ((x <= bounds[0]) & (grad < 0))
            grad = jnp.where(stuck, 0, grad)
        step = jax.vmap(lambda g: steepest_ascent(g, p=p, l1_share=l1_share))(grad * mask)
        return project(x + _expand(step_size) * step)

    def one_start(key):
        start = images if random_start == "none" else project(images + _random_delta(key))
        best = (start, jnp.full_like(epsilon, -jnp.inf), jnp.zeros(epsilon.shape, bool))

        def body(carry, _):
            x, best = carry
            grad, (value, success) = jax.grad(objective, has_aux=True)(x)
            return (ascend(x, grad), _keep(best, (x, value, success), value > best[1])), None

        (x, best), _ = jax.lax.scan(
            body, (start, best), length=num_steps, unroll=num_steps if unroll else 1
        )
        value, success = objective(x)[1]
        return _keep(best, (x, value, success), value > best[1])

    def _random_delta(key):
        keys = jax.random.split(key, images.shape[0])
        shape = images.shape[1:]
        delta = jax.vmap(lambda k, r: sample_lp_ball(k, shape, p=p, radius=r, dtype=images.dtype))(
            keys, epsilon
        )
        if random_start == "ball":
            return delta
        length = jax.vmap(lambda d: lp_norm(d, p))(delta)
        return delta * _expand(epsilon / jnp.where(length > 0, length, 1))

    if restarts == 1:
        return jax.lax.stop_gradient(one_start(key)[0])

    def next_start(best, key):
        new = one_start(key)
        better = (new[2] & ~best[2]) | ((new[2] == best[2]) & (new[1] > best[1]))
        return _keep(best, new, better), None

    keys = jax.random.split(key, restarts)
    best, _ = jax.lax.scan(
        next_start, one_start(keys[0]), keys[1:], unroll=restarts - 1 if unroll else 1
    )
    return jax.lax.stop_gradient(best[0])


def check_perturbation(adversarial, images, *, p, epsilon, bounds=(0.0, 1.0)):
    """Raise unless every adversarial image is finite, in the box, and within epsilon (1 + 1e-5).

    The post-condition of every attack, checked on the host after each attack of an evaluation.
    `epsilon` is a number or [n]; half a unit of float32 rounding per pixel is allowed for.
    """
    adversarial, images = np.asarray(adversarial, np.float64), np.asarray(images, np.float64)
    require(np.all(np.isfinite(adversarial)), "the attack returned pixels that are not finite")
    low, high = adversarial.min(initial=bounds[0]), adversarial.max(initial=bounds[1])
    require(
        bounds[0] <= low and high <= bounds[1],
        f"the attack left the box: pixels in [{low}, {high}], allowed {list(bounds)}",
    )
    num_pixels = math.prod(images.shape[1:])
    delta = (adversarial - images).reshape(len(images), num_pixels)
    norms = np.linalg.norm(delta, ord=p, axis=1)
    rounding = 2**-24 * (1 if p == math.inf else num_pixels ** (1 / p))
    worst = np.max(norms - np.asarray(epsilon) * (1 + 1e-5), initial=-math.inf)
    require(
        worst <= rounding,
        f"the attack left the {norm_name(p)} ball of radius {np.max(epsilon):g}: "
        f"the largest perturbation is {norms.max(initial=0):.8g}",
    )


def _expand(per_image):
    return per_image[:, None, None, None]


def _keep(old, new, is_better):
    return jax.tree.map(
        lambda a, b: jnp.where(is_better.reshape((-1,) + (1,) * (a.ndim - 1)), b, a), old, new
    )
