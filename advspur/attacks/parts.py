"""Helpers shared by the attacks: keys, starting points, restarts and the direction of l1 steps."""

import jax
import jax.numpy as jnp
import numpy as np

from advspur._checks import InputError, check_targets, is_concrete, require, require_finite
from advspur.attacks.box import confine, kth_largest
from advspur.attacks.checks import check_logits_fn
from advspur.norms import lp_norm, sample_lp_ball


def count_classes(logits_fn, images, labels, *sample, targets=None):
    """Return the number of classes; check the model, the labels and the targets."""
    num_classes = check_logits_fn(logits_fn, images, *sample)
    if is_concrete(labels) and len(labels):
        values = np.asarray(labels)  # under jit, .min() of a constant would be traced
        low, high = int(values.min()), int(values.max())
        require(
            low >= 0 and high < num_classes,
            f"labels are in [{low}, {high}]; the model has {num_classes} classes, so they must be "
            f"in [0, {num_classes - 1}]",
        )
    if targets is not None:
        check_targets(targets, labels, num_classes)
    return num_classes


def image_keys(key, count):
    """Return one key per image, [count], so that the batch an image is in does not matter."""
    is_array = hasattr(key, "dtype")
    require(is_array, f"key = {key}: a random attack needs a PRNG key, such as jax.random.key(0)")
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    is_good = key.shape in ((), (count,))
    require(is_good, f"key has shape {key.shape}; give one key, or one per image, {(count,)}")
    return key if key.ndim else jax.random.split(key, count)


def start_points(keys, images, *, p, epsilon, bounds, kind, budget_weights=None):
    """Draw points uniform in the ball, or at distance epsilon [n] ("sphere"), and cut to the box.

    `budget_weights` scale the perturbation, see `confine`.
    """
    shape, options = images.shape[1:], {"p": p, "dtype": images.dtype}
    delta = jax.vmap(lambda k, r: sample_lp_ball(k, shape, radius=r, **options))(keys, epsilon)
    if kind == "sphere":
        length = jax.vmap(lambda d: lp_norm(d, p))(delta)
        delta = delta * per_image(epsilon / jnp.where(length > 0, length, 1))
    ball = {"p": p, "epsilon": epsilon, "bounds": bounds, "budget_weights": budget_weights}
    return confine(images + weighted(delta, budget_weights), images, **ball)


def attack_weights(budget_weights, images):
    """Check `budget_weights` and broadcast them to `images`; None stays None."""
    if budget_weights is None:
        return None
    weights = jnp.asarray(budget_weights, images.dtype)
    if is_concrete(weights):
        values = np.asarray(weights)
        is_good = np.all(np.isfinite(values) & (values >= 0))
        require(is_good, "budget_weights must be finite and >= 0 (0 leaves a pixel unchanged)")
    try:
        return jnp.broadcast_to(weights, images.shape)
    except ValueError as error:
        raise InputError(
            f"budget_weights have shape {weights.shape}; images have {images.shape}"
        ) from error


def weighted(step, budget_weights):
    """Multiply by the weights: a step becomes one in pixels, a pixel gradient a weighted one."""
    return step if budget_weights is None else step * budget_weights


def best_restart(attack, keys, restarts):
    """Return, per image, the best of `restarts` runs of attack(keys) -> (images, loss, success)."""

    def next_run(best, restart):
        new = attack(jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, restart))
        return better_run(best, new), None

    best = attack(keys)
    if restarts > 1:
        best, _ = jax.lax.scan(next_run, best, jnp.arange(1, restarts))
    return best


def better_run(best, new):
    """Keep the first success, else the largest loss; a NaN loss (an error) beats everything."""
    better = (new[2] & ~best[2]) | ((new[2] == best[2]) & (new[1] > best[1]))
    better = (better | jnp.isnan(new[1])) & ~jnp.isnan(best[1])
    return keep(best, new, better)


def finished(adversarial, is_finite):
    """Return the images without gradients, NaN if not `is_finite` [n]; outside jit, raise."""
    if is_concrete(is_finite):
        values = np.where(is_finite, 0, np.nan)
        require_finite("the model's logits or gradients", range(len(values)), values)
    adversarial = jnp.where(per_image(is_finite), adversarial, jnp.nan)
    return jax.lax.stop_gradient(adversarial)


def largest_signs(grad, count):
    """Return the signs of the `count` largest entries, scaled to l1 norm 1."""
    size = jnp.abs(grad)
    signs = jnp.sign(grad) * (size >= kth_largest(size, count))
    return signs / jnp.maximum(jnp.sum(jnp.abs(signs)), 1)


def finite_loss(loss, logits):
    """Return the loss [n], NaN for images with a logit [n, k] that is not finite."""
    return jnp.where(jnp.all(jnp.isfinite(logits), axis=-1), loss, jnp.nan)


def per_image(values):
    """Reshape [n] to [n, 1, 1, 1]."""
    return values[:, None, None, None]


def keep(old, new, is_better):
    """Take the images `is_better` [n] from the pytree `new`, the others from `old`."""
    return jax.tree.map(
        lambda a, b: jnp.where(is_better.reshape((-1,) + (1,) * (a.ndim - 1)), b, a), old, new
    )
