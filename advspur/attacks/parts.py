"""What attacks share: keys and starts, restarts, and the direction of an l1 step."""

import jax
import jax.numpy as jnp
import numpy as np

from advspur._checks import InputError, check_targets, is_concrete, require, require_finite
from advspur.attacks.box import confine, kth_largest
from advspur.attacks.checks import check_logits_fn
from advspur.norms import lp_norm, sample_lp_ball


def count_classes(logits_fn, images, labels, *sample, targets=None):
    """The number of classes, with the model, labels and targets checked."""
    num_classes = check_logits_fn(logits_fn, images, *sample)
    if is_concrete(labels) and len(labels):
        given = np.asarray(labels)  # under jit, even a constant's own .min() would be traced
        low, high = int(given.min()), int(given.max())
        require(
            low >= 0 and high < num_classes,
            f"labels are in [{low}, {high}]; the model has {num_classes} classes, so they must be "
            f"in [0, {num_classes - 1}]",
        )
    if targets is not None:
        check_targets(targets, labels, num_classes)
    return num_classes


def image_keys(key, count):
    """One key an image, [count], so that it does not matter which batch the image is in."""
    require(
        hasattr(key, "dtype"), f"key = {key}: what is random needs a PRNG key: jax.random.key(0)"
    )
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    require(
        key.shape in ((), (count,)),
        f"key has shape {key.shape}; give one key, or one an image, {(count,)}",
    )
    return key if key.ndim else jax.random.split(key, count)


def start_points(keys, images, *, p, epsilon, bounds, kind, budget_weights=None):
    """Random points, uniform in the ball or epsilon [n] away ("sphere"), cut to the box.

    With `budget_weights`, as of `confine`, times the weights.
    """
    ball = {"p": p, "dtype": images.dtype}
    draw = jax.vmap(lambda k, r: sample_lp_ball(k, images.shape[1:], radius=r, **ball))
    delta = draw(keys, epsilon)
    if kind == "sphere":
        length = jax.vmap(lambda d: lp_norm(d, p))(delta)
        delta = delta * per_image(epsilon / jnp.where(length > 0, length, 1))
    ball = {"p": p, "epsilon": epsilon, "bounds": bounds, "budget_weights": budget_weights}
    return confine(images + weighted(delta, budget_weights), images, **ball)


def attack_weights(budget_weights, images):
    """Checked `budget_weights` as an array like `images`; None where there are none."""
    if budget_weights is None:
        return None
    weights = jnp.asarray(budget_weights, images.dtype)
    if is_concrete(weights):
        values = np.asarray(weights)
        is_good = np.all(np.isfinite(values) & (values >= 0))
        require(is_good, "budget_weights must be finite and >= 0; 0 leaves a pixel alone")
    try:
        return jnp.broadcast_to(weights, images.shape)
    except ValueError as error:
        raise InputError(
            f"budget_weights have shape {weights.shape}; images have {images.shape}"
        ) from error


def weighted(step, budget_weights):
    """A step in units of the weights, or a gradient, in those of the pixels, and the reverse."""
    return step if budget_weights is None else step * budget_weights


def best_restart(attack, keys, restarts):
    """The best of `restarts` runs of attack(keys) -> (images, loss, success) for each image."""

    def next_run(best, restart):
        new = attack(jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, restart))
        return better_run(best, new), None

    best = attack(keys)
    if restarts > 1:
        best, _ = jax.lax.scan(next_run, best, jnp.arange(1, restarts))
    return best


def better_run(best, new):
    """The first success, else the largest loss; a loss of NaN, which is an error, beats all."""
    better = (new[2] & ~best[2]) | ((new[2] == best[2]) & (new[1] > best[1]))
    better = (better | jnp.isnan(new[1])) & ~jnp.isnan(best[1])
    return keep(best, new, better)


def finished(adversarial, is_finite):
    """What an attack returns, without gradients; NaN where not `is_finite` [n].

    Outside of jit that is an error.
    """
    if is_concrete(is_finite):
        values = np.where(is_finite, 0, np.nan)
        require_finite("the model's logits or gradients", range(len(values)), values)
    adversarial = jnp.where(per_image(is_finite), adversarial, jnp.nan)
    return jax.lax.stop_gradient(adversarial)


def largest_signs(grad, count):
    """The signs of the `count` largest entries, of l1 norm 1."""
    size = jnp.abs(grad)
    signs = jnp.sign(grad) * (size >= kth_largest(size, count))
    return signs / jnp.maximum(jnp.sum(jnp.abs(signs)), 1)


def finite_loss(loss, logits):
    """The loss [n]; NaN where one of the logits [n, k] is not finite."""
    return jnp.where(jnp.all(jnp.isfinite(logits), axis=-1), loss, jnp.nan)


def per_image(values):
    """[n] as [n, 1, 1, 1]."""
    return values[:, None, None, None]


def keep(old, new, is_better):
    """A pytree that takes the images `is_better` [n] from `new`, the others from `old`."""
    return jax.tree.map(
        lambda a, b: jnp.where(is_better.reshape((-1,) + (1,) * (a.ndim - 1)), b, a), old, new
    )
