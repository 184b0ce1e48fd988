"""Active images in batches of few sizes, one attack of the ensemble on one batch of them."""

import inspect
import time
from typing import NamedTuple

import jax
import numpy as np

from advspur._checks import require_finite
from advspur._devices import split_batch, whole_batch
from advspur.attacks.checks import check_perturbation, perturbation_norms
from advspur.attacks.ensemble import run_member

SIZES = 16  # batches are padded to a multiple of batch_size / SIZES


class Task(NamedTuple):
    """What is attacked: the same for all attacks and budgets."""

    logits_fn: object  # a pytree: images -> logits, or (images, key) -> logits
    images: np.ndarray
    labels: np.ndarray
    key: object
    p: float
    bounds: tuple
    batch_size: int
    is_random: bool


def as_pytree(logits_fn):
    """A `jax.tree_util.Partial`: the arrays of a method's object are its leaves.

    One compilation then serves all models that differ in their arrays only.
    """
    owner = getattr(logits_fn, "__self__", None)
    if inspect.ismethod(logits_fn) and not jax.tree_util.all_leaves([owner]):
        return jax.tree_util.Partial(logits_fn.__func__, owner)
    if isinstance(logits_fn, jax.tree_util.Partial):
        return logits_fn
    return jax.tree_util.Partial(logits_fn)


def predict(task, rows, images):
    """Logits [n, k] of `images`, which are those of `rows` or adversarial ones, on the host."""
    found = []
    of_model = jax.random.fold_in(task.key, len(task.images))  # the attacks have keys 0 to n - 1
    for start in range(0, len(rows), task.batch_size):
        part = slice(start, start + task.batch_size)
        size = _padded_size(len(rows[part]), task.batch_size)
        x = split_batch(_pad(np.asarray(images[part]), size))
        sample = (jax.random.fold_in(of_model, rows[start]),) if task.is_random else ()
        logits = np.asarray(task.logits_fn(x, *sample), np.float32)[: len(rows[part])]
        require_finite("the logits", rows[part], logits)
        found.append(logits)
    return np.concatenate(found)


def attack_rows(task, member, epsilon, rows):
    """One Member of the ensemble on the images `rows` (at most batch_size), checked.

    Each of its runs is on what the one before left robust. Success is what a forward pass outside
    of the attack says.

    Returns: (entry, fooled rows, their adversarial images); the entry as a dict for JSON.
    """
    start, left, tried = time.monotonic(), rows, 0
    fooled, adversarial, vanished, forwards = [], [], [], 0
    for number in range(member.num_runs):
        if len(left) == 0:
            break
        images, labels = task.images[left], task.labels[left]
        x, has_vanished, queries = _run(task, member, epsilon, left, number)
        require_finite("the logits under attack", left, x)
        check_perturbation(x, images, p=task.p, epsilon=epsilon, bounds=task.bounds)
        is_lost = np.argmax(predict(task, left, x), axis=1) != labels
        fooled.append(left[is_lost])
        adversarial.append(x[is_lost])
        vanished.append(left[has_vanished])
        forwards += len(left) * (member.forwards + 1) + int(np.sum(queries))
        tried += len(left)
        left = left[~is_lost]
    fooled, adversarial = np.concatenate(fooled), np.concatenate(adversarial)
    norms = perturbation_norms(adversarial, task.images[fooled], p=task.p)
    entry = {
        "rows": rows.tolist(),
        "fooled": fooled.tolist(),
        "vanished": len(np.unique(np.concatenate(vanished))),  # images, in any of the runs
        "gradients": tried * member.gradients,
        "forwards": forwards,
        "largest": norms.max(initial=0),
        "low": float(adversarial.min(initial=task.bounds[1])),
        "high": float(adversarial.max(initial=task.bounds[0])),
        "seconds": time.monotonic() - start,
    }
    return entry, fooled, adversarial


def _run(task, member, epsilon, rows, number):
    """Run `number` of a Member: [images, vanished gradients, queries] on the host."""
    size = _padded_size(len(rows), task.batch_size)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(task.key, _pad(rows, size))
    batch = task.images[rows], task.labels[rows]
    found = run_member(
        task.logits_fn,
        *(split_batch(_pad(a, size)) for a in batch),
        split_batch(keys),
        np.asarray(epsilon, task.images.dtype),
        number,
        member=member,
        p=task.p,
        bounds=task.bounds,
    )
    return [np.asarray(array)[: len(rows)] for array in found]


def _padded_size(count, batch_size):
    """The least multiple of batch_size / SIZES that holds `count`; whole on all devices."""
    step = whole_batch(-(-batch_size // SIZES))
    return -(-count // step) * step


def _pad(array, size):
    """`array` with its first row repeated up to `size` rows."""
    return np.concatenate([array, np.repeat(array[:1], size - len(array), axis=0)])
