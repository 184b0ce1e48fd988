"""Auto-PGD: projected gradient ascent with an adaptive step size.

    z = P(x_t + eta v(grad loss)),   x_{t+1} = P(x_t + a (z - x_t) + (1 - a)(x_t - x_{t-1}))

with a = 0.75 and eta = 2 epsilon at first. At checkpoints, which become more frequent, an image
returns to its best point with half the step if too few steps raised its loss (Croce & Hein, ICML
2020, arXiv 2003.01690). In l1, a step moves only the largest coordinates of the gradient, their
number adapts, P is exact, and balls of 3, 2 and 1 epsilon are searched in turn (Croce & Hein, ICML
2021, arXiv 2103.01208). Memory does not grow with the number of steps.
"""

import math
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advspur._checks import attack_arrays, check_count, is_concrete
from advspur._convolutions import for_loops
from advspur.attacks import parts
from advspur.attacks.box import confine
from advspur.attacks.checks import SEE, vanished_text
from advspur.attacks.losses import loss_function
from advspur.norms import steepest_ascent

MOMENTUM = 0.75
RISING = 0.75  # share of the steps between checkpoints that must raise the loss
L1_STAGES = ((3, 0.3), (2, 0.3), (1, 0.4))  # (multiple of epsilon, share of the steps)
L1_DENSITY = 1.5  # a step moves 1 / L1_DENSITY as many coordinates as the best point changes
L1_SHRINK, L1_SMALLEST = 1.5, 0.1  # the step size is divided by the first, down to this share


class _State(NamedTuple):
    x: object
    x_before: object
    grad: object
    loss: object
    best: tuple  # (x, grad, loss): the first misclassified point, else that of the largest loss
    success: object
    step_size: object
    rises: object  # steps since the last checkpoint that raised the loss
    was_halved: object  # whether the step was, at the last checkpoint
    best_loss_before: object  # the best loss at the last checkpoint
    changed: object  # l1: number of coordinates that the best point changed, at the last checkpoint


def apgd(
    logits_fn,
    images,
    labels,
    key,
    *,
    p,
    epsilon,
    num_steps=100,
    loss="cross_entropy",
    targets=None,
    num_samples=None,
    bounds=(0.0, 1.0),
    with_vanished=False,
):
    """Return adversarial images in the l_p ball around `images`.

    Arguments as in `pgd`, except:

    Args:
      logits_fn: with `num_samples`, (images, key) -> logits.
      num_steps: gradient evaluations after the first, over all stages.
      targets: [n] int; the classes that a targeted loss aims at. Any wrong class is a success.
      num_samples: average loss and gradient over this many samples of a random model (expectation
        over transformation, Athalye et al., ICML 2018).
      with_vanished: instead of warning, also return whether a first gradient vanished [n]: it is
        not finite, or it is 0 and the loss is not cross entropy, which may saturate.
    Returns:
      [n, h, w, c]: a misclassified image if one was found, else that of the largest loss; with
      `with_vanished` (images, [n] bool). A gradient that is not finite counts as 0.
    Warns: outside jit, if a first gradient vanished.
    """
    images, labels, epsilon = attack_arrays(images, labels, p=p, epsilon=epsilon, bounds=bounds)
    check_count("num_steps", num_steps)
    keys = parts.image_keys(key, len(images))
    sample = () if num_samples is None else (keys[0],)
    num_classes = parts.count_classes(logits_fn, images, labels, *sample, targets=targets)
    loss_fn = loss_function(loss, num_classes, targeted=targets is not None)

    def objective(x, *key):
        logits = logits_fn(x, *key)
        value = parts.finite_loss(loss_fn(logits, labels, targets), logits)
        return jnp.sum(value), (value, logits)

    one_gradient = for_loops(jax.grad(objective, has_aux=True))

    def gradient(x, step):
        if num_samples is None:
            grad, (value, logits) = one_gradient(x)
        else:
            samples = jax.random.split(jax.random.fold_in(keys[0], step), num_samples)
            grad, (value, logits) = _mean(lambda key: one_gradient(x, key), samples)
        return grad, value, jnp.argmax(logits, axis=-1) != labels

    stages = L1_STAGES if p == 1 else ((1, 1.0),)
    counts = [math.ceil(share * num_steps) for _, share in stages[:-1]]
    counts.append(max(num_steps - sum(counts), 0))
    ball = {"p": p, "bounds": bounds}
    x = parts.start_points(keys, images, epsilon=stages[0][0] * epsilon, kind="sphere", **ball)
    vanished, num_before = jnp.zeros(labels.shape, bool), 0
    for (scale, _), count in zip(stages, counts, strict=True):
        ball["epsilon"] = scale * epsilon
        x, value, success, grad = _search(gradient, images, x, num_before, count, **ball)
        num_before += count + 1  # so that every gradient of a random model has a key of its own
        vanished |= ~jnp.all(jnp.isfinite(grad), axis=(1, 2, 3))
        if loss != "cross_entropy":
            vanished |= jnp.all(grad == 0, axis=(1, 2, 3))
    is_finite = jnp.isfinite(value)
    if num_samples is None:  # one sample of a random model does not show that an image is lost
        logits = logits_fn(images)
        is_lost = jnp.argmax(logits, axis=-1) != labels  # without an attack
        is_finite &= jnp.all(jnp.isfinite(logits), axis=-1)
        x = parts.keep(x, images, is_lost & ~success)
    x = parts.finished(x, is_finite)
    if with_vanished:
        return x, vanished
    if is_concrete(vanished) and vanished.any():
        warnings.warn(f"{vanished_text(int(vanished.sum()), 'apgd')} {SEE}", stacklevel=2)
    return x


def _search(gradient, images, x, num_before, num_steps, *, p, epsilon, bounds):
    """Search a ball after `num_before` gradients: (best images, loss, success, first gradient)."""

    def inside(x):
        return confine(x, images, p=p, epsilon=epsilon, bounds=bounds)

    x = inside(x)
    size = math.prod(images.shape[1:])
    largest_step = (1 if p == 1 else 2) * epsilon
    grad, loss, success = gradient(x, num_before)
    state = _State(
        x, x, grad, loss, (x, grad, loss), success, largest_step,
        rises=jnp.zeros_like(epsilon), was_halved=jnp.ones(loss.shape, bool),
        best_loss_before=loss, changed=_count_changed(x, images),
    )  # fmt: skip

    def advance(state, momentum):
        grad = jnp.where(jnp.isfinite(state.grad), state.grad, 0)
        if p == 1:
            count = jnp.clip(jnp.ceil(state.changed / L1_DENSITY), 1, size)
            direction = jax.vmap(parts.largest_signs)(grad, count)
        else:
            direction = jax.vmap(lambda g: steepest_ascent(g, p=p))(grad)
        ahead = inside(state.x + parts.per_image(state.step_size) * direction)
        if p == 1:
            return ahead
        inertia = (1 - momentum) * (state.x - state.x_before)
        return inside(state.x + momentum * (ahead - state.x) + inertia)

    def step(state, now):
        number, momentum, interval = now
        x = advance(state, momentum)
        grad, loss, hit = gradient(x, number)
        better = ~state.success & (hit | (loss > state.best[2]))
        state = state._replace(
            x=x, x_before=state.x, grad=grad, loss=loss, rises=state.rises + (loss > state.loss),
            best=parts.keep(state.best, (x, grad, loss), better), success=state.success | hit,
        )  # fmt: skip
        checked = _check_l1(state, images, largest_step) if p == 1 else _check(state, interval)
        return parts.keep(state, checked, jnp.broadcast_to(interval > 0, loss.shape)), None

    steps = jnp.arange(num_steps)
    momenta = jnp.where(steps == 0, 1, MOMENTUM).astype(x.dtype)
    plan = steps + num_before + 1, momenta, jnp.asarray(_checkpoints(num_steps, p), x.dtype)
    state, _ = jax.lax.scan(step, state, plan)
    return state.best[0], state.best[2], state.success, grad


def _checkpoints(num_steps, p):
    """Return for each step 0 or, at a checkpoint, the number of steps since the previous one."""

    def steps(share):
        return max(int(share * num_steps), 1)

    intervals = np.zeros(num_steps)
    interval, at = steps(0.04 if p == 1 else 0.22), -1
    while (at := at + interval) < num_steps:
        intervals[at] = interval
        interval = interval if p == 1 else max(interval - steps(0.03), steps(0.06))
    return intervals


def _check(state, interval):
    """Halve the step and return to the best point if the search stalls."""
    stalls = state.rises <= RISING * interval
    stalls |= ~state.was_halved & (state.best_loss_before >= state.best[2])
    x, grad = parts.keep((state.x, state.grad), state.best[:2], stalls)
    return state._replace(
        x=x, grad=grad, step_size=jnp.where(stalls, state.step_size / 2, state.step_size),
        rises=jnp.zeros_like(state.rises), was_halved=stalls, best_loss_before=state.best[2],
    )  # fmt: skip


def _check_l1(state, images, largest_step):
    """Adapt the number of coordinates a step moves; if it falls, restart with the largest step."""
    changed = _count_changed(state.best[0], images)
    sparser = changed < 0.95 * state.changed
    x, grad = parts.keep((state.x, state.grad), state.best[:2], sparser)
    shorter = jnp.maximum(state.step_size / L1_SHRINK, L1_SMALLEST * largest_step)
    step_size = jnp.where(sparser, largest_step, shorter)
    return state._replace(x=x, grad=grad, step_size=step_size, changed=changed)


def _count_changed(x, images):
    return jnp.sum(x != images, axis=(1, 2, 3), dtype=x.dtype)


def _mean(function, keys):
    """Return the mean of function(key) over the keys, called in sequence."""

    def add(total, key):
        return jax.tree.map(jnp.add, total, function(key)), None

    zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(function, keys[0]))
    return jax.tree.map(lambda x: x / len(keys), jax.lax.scan(add, zero, keys)[0])
