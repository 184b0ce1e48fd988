"""The fast adaptive boundary attack: the nearest misclassified image, for every budget at once.

    x <- (1 - a) (x + eta d(x)) + a (x_0 + eta d(x_0)),
    a = min(||d(x)|| / (||d(x)|| + ||d(x_0)||), 0.1)

with d(z) the step of least l_p norm from z, inside the box, onto the linearised decision boundary
<grad f(x), z + d - x> + f(x) = 0, and f a difference of two logits. A misclassified x moves back
towards x_0 by a tenth. A final search bisects the line to the nearest point found (Croce & Hein,
ICML 2020, arXiv 1907.02044).
"""

import jax
import jax.numpy as jnp

from advspur._checks import attack_arrays, check_count, require
from advspur._convolutions import for_loops
from advspur.attacks import parts
from advspur.attacks.box import nearest_on_hyperplane
from advspur.attacks.losses import margin
from advspur.norms import dual_exponent, lp_norm

OVERSHOOT = 1.05  # eta
BACKWARD = 0.9
NUM_HALVINGS = 10  # of the final search
LARGEST_WEIGHT = 0.1  # of the original image


def fab(
    logits_fn,
    images,
    labels,
    key=None,
    *,
    p,
    epsilon=None,
    num_steps=100,
    targets=None,
    restarts=1,
    bounds=(0.0, 1.0),
):
    """Return the nearest misclassified images found, in the l_p distance to `images`.

    Arguments as in `pgd`, except:

    Args:
      key: needed only for restarts, since the first start is the image.
      epsilon: the largest distance that counts, a number or [n]; None: any.
      num_steps: iterations of one forward pass and one gradient (without `targets`: one gradient
        for each class).
      targets: [n] int: search for the boundary to this class, not to the nearest. Any wrong class
        is a success.
      restarts: starts; the second and later ones are random, half an epsilon away.
    Returns:
      [n, h, w, c]: a misclassified image if one was found within epsilon, else the image itself. A
      gradient that is not finite ends the search.
    """
    is_limited = epsilon is not None
    require(is_limited or restarts == 1, "restarts > 1 need epsilon: they start half of it away")
    epsilon = epsilon if is_limited else 0.0
    images, labels, epsilon = attack_arrays(images, labels, p=p, epsilon=epsilon, bounds=bounds)
    check_count("num_steps", num_steps)
    check_count("restarts", restarts)
    keys = parts.image_keys(key, len(images)) if restarts > 1 else None
    num_classes = parts.count_classes(logits_fn, images, labels, targets=targets)
    linearise = _linearisation(logits_fn, labels, targets, num_classes, p)
    logits_of = for_loops(logits_fn)
    norm = jax.vmap(lambda d: lp_norm(d, p))
    onto = jax.vmap(lambda w, g, low, high: nearest_on_hyperplane(w, g, low, high, p=p))

    def predict(x):
        """(whether x is misclassified [n], whether all its logits are finite [n])."""
        logits = logits_of(x)
        is_finite = jnp.all(jnp.isfinite(logits), axis=-1)
        return (jnp.argmax(logits, axis=-1) != labels) & is_finite, is_finite

    is_lost, clean_is_finite = predict(images)

    def step(state, _):
        x, best_x, best_norm, is_finite = state
        value, gradient = linearise(x)
        shift = jnp.sum(gradient * (x - images), axis=(1, 2, 3))
        both = jnp.concatenate([x, images])  # together: their iterations cost the same
        gains = jnp.concatenate([-value, shift - value])
        steps = onto(jnp.tile(gradient, (2, 1, 1, 1)), gains, bounds[0] - both, bounds[1] - both)
        from_x, from_image = jnp.split(steps, 2)
        far, near = (jnp.maximum(norm(d), 1e-8) for d in (from_x, from_image))
        weight = parts.per_image(jnp.minimum(far / (far + near), LARGEST_WEIGHT))
        moved = (1 - weight) * (x + OVERSHOOT * from_x) + weight * (images + OVERSHOOT * from_image)
        moved = jnp.clip(moved, *bounds)
        x = parts.keep(x, moved, jnp.all(jnp.isfinite(moved), axis=(1, 2, 3)))  # as the gradient is
        (hit, also_finite), distance = predict(x), norm(x - images)
        nearer = hit & (distance < best_norm)
        best_x, best_norm = parts.keep((best_x, best_norm), (x, distance), nearer)
        x = parts.keep(x, images + BACKWARD * (x - images), hit)
        return (x, best_x, best_norm, is_finite & also_finite), None

    def one_start(keys, is_first):
        x = images
        if not is_first:
            ball = {"p": p, "epsilon": epsilon / 2, "bounds": bounds}
            x = parts.start_points(keys, images, kind="sphere", **ball)
        start = x, images, jnp.where(is_lost, 0, jnp.inf).astype(images.dtype), clean_is_finite
        (_, best, distance, is_finite), _ = jax.lax.scan(step, start, length=num_steps)
        best = _bisect(predict, images, best)
        distance = jnp.where(jnp.isinf(distance), jnp.inf, norm(best - images))
        counts = distance <= (epsilon if is_limited else jnp.inf)
        return parts.keep(images, best, counts), jnp.where(is_finite, -distance, jnp.nan), counts

    best = one_start(keys, True)
    if restarts > 1:
        others = parts.best_restart(lambda keys: one_start(keys, False), keys, restarts - 1)
        best = parts.better_run(best, others)
    return parts.finished(best[0], ~jnp.isnan(best[1]))


def _bisect(predict, images, lost):
    """Find where the prediction changes on the line from `images` to the misclassified `lost`."""

    def halve(ends, _):
        low, high = ends
        middle = (low + high) / 2
        hit, _ = predict(images + parts.per_image(middle) * (lost - images))
        return (jnp.where(hit, low, middle), jnp.where(hit, middle, high)), None

    zero = jnp.zeros(len(images), images.dtype)
    (_, share), _ = jax.lax.scan(halve, (zero, zero + 1), length=NUM_HALVINGS)
    return images + parts.per_image(share) * (lost - images)


def _linearisation(logits_fn, labels, targets, num_classes, p):
    """Return x -> (f(x), grad f(x)) for the boundary to the targets, or else to the nearest one."""

    def to_classes(x, others):
        def difference(x):
            value = margin(logits_fn(x), labels, others)
            return jnp.sum(value), value

        return jax.grad(difference, has_aux=True)(x)[::-1]

    linearise_to = for_loops(to_classes)
    if targets is not None:
        return lambda x: linearise_to(x, targets)
    q = dual_exponent(p)
    dual_norm = jax.vmap(lambda g: lp_norm(g, q))

    def nearest(x):
        def compare(best, other):
            value, gradient = linearise_to(x, jnp.full_like(labels, other))
            distance = jnp.where(
                labels == other, jnp.inf, jnp.abs(value) / (dual_norm(gradient) + 1e-12)
            )
            return parts.keep(best, (distance, value, gradient), distance < best[0]), None

        start = jnp.full(len(x), jnp.inf, x.dtype), jnp.zeros(len(x), x.dtype), jnp.zeros_like(x)
        (_, value, gradient), _ = jax.lax.scan(compare, start, jnp.arange(num_classes))
        return value, gradient

    return nearest
