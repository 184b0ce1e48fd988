"""AutoAttack's attacks with their published settings, and one attack on a batch."""

import functools
import inspect
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advspur._checks import require, require_finite
from advspur._devices import EVERYWHERE, SPLIT, device_mesh, round_up_to_devices, split_batch
from advspur.attacks.apgd import apgd
from advspur.attacks.checks import check_perturbation, perturbation_norms
from advspur.attacks.fab import NUM_HALVINGS, fab
from advspur.attacks.square import run_square

VERSIONS = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}
LOSSES = {"apgd-ce": "cross_entropy", "apgd-dlr": "dlr", "apgd-t": "dlr"}
NUM_STEPS, NUM_QUERIES, NUM_SAMPLES = 100, 5000, 20
FAB_RESTARTS = 5
SIZES = 16  # batches are padded to a multiple of batch_size / SIZES


class Member(NamedTuple):
    """An attack of the ensemble; each of `num_runs` runs attacks what is still robust."""

    name: str  # as AutoAttack writes it
    loss: str
    num_runs: int  # restarts, or targets
    is_targeted: bool
    num_samples: int | None
    gradients: int  # of one run on one image
    forwards: int  # likewise, without those of gradients and Square's queries


class Task(NamedTuple):
    """The arguments common to all attacks at all budgets."""

    logits_fn: object  # a pytree: images -> logits, or (images, key) -> logits
    images: np.ndarray
    labels: np.ndarray
    key: object
    p: float
    bounds: tuple
    batch_size: int
    is_random: bool


def members(version, attacks, *, p, num_classes):
    """Return ([Member], [text about each change due to too few classes])."""
    attacks = VERSIONS[version] if attacks is None else attacks
    # "rand": only these take logits_fn(images, key).
    allowed = VERSIONS["rand"] if version == "rand" else sorted((*LOSSES, "fab", "fab-t", "square"))
    is_known = attacks and all(name in allowed for name in attacks)
    require(is_known, f"attacks = {attacks}: allowed are {', '.join(allowed)}")
    require(len(set(attacks)) == len(attacks), f"attacks = {attacks}: an attack is named twice")
    ensemble, notes = [], []
    for name in attacks:
        loss, is_targeted = LOSSES.get(name, ""), name.endswith("-t")
        if loss == "dlr" and num_classes < 3 + is_targeted:
            loss = "margin"
            notes.append(f"{name}: DLR needs {3 + is_targeted} classes, its loss is the margin")
        runs = 1
        if is_targeted:
            most = 5 if name == "apgd-t" and p == 1 and version != "plus" else 9
            runs = min(most, num_classes - 1)
            if runs < most:
                notes.append(f"{name}: {runs} targets instead of {most}")
        elif name.startswith("apgd") and (version == "plus" or (p == 1 and version != "rand")):
            runs = 5
        samples = NUM_SAMPLES if version == "rand" else None
        gradients, forwards = 0, 2
        if name.startswith("apgd"):
            forwards = (samples is None) + is_targeted  # the image; the order of its classes
            gradients = (NUM_STEPS + (3 if p == 1 else 1)) * (samples or 1)
        elif name.startswith("fab"):
            runs_inside = 1 if is_targeted else FAB_RESTARTS
            gradients = NUM_STEPS * runs_inside * (1 if is_targeted else num_classes)
            forwards = (NUM_STEPS + NUM_HALVINGS) * runs_inside + 1 + is_targeted
        ensemble.append(Member(name, loss, runs, is_targeted, samples, gradients, forwards))
    return ensemble, notes


def most_passes(version, *, p, num_classes):
    """Return the forward passes for an image that stays robust; a gradient counts as three."""
    total = 1
    for member in members(version, None, p=p, num_classes=num_classes)[0]:
        queries = NUM_QUERIES if member.name == "square" else 0
        total += member.num_runs * (3 * member.gradients + member.forwards + queries + 1)
    return total


def as_pytree(logits_fn):
    """Return a `jax.tree_util.Partial` whose leaves are the arrays of a method's object.

    One compilation then serves all models that differ only in their arrays.
    """
    owner = getattr(logits_fn, "__self__", None)
    if isinstance(logits_fn, jax.tree_util.Partial):
        return logits_fn
    if inspect.ismethod(logits_fn) and not jax.tree_util.all_leaves([owner]):
        return jax.tree_util.Partial(logits_fn.__func__, owner)
    return jax.tree_util.Partial(logits_fn)


def predict(task, rows, images):
    """Return on the host the logits [n, k] of `images`, those of `rows` or adversarial ones."""
    outputs = []
    model_key = jax.random.fold_in(task.key, len(task.images))  # the attacks fold in 0 to n - 1
    for start in range(0, len(rows), task.batch_size):
        batch = slice(start, start + task.batch_size)
        sample = (jax.random.fold_in(model_key, rows[start]),) if task.is_random else ()
        x = split_batch(_pad(np.asarray(images[batch]), task.batch_size))
        logits = np.asarray(task.logits_fn(x, *sample), np.float32)[: len(rows[batch])]
        require_finite("the logits", rows[batch], logits)
        outputs.append(logits)
    return np.concatenate(outputs)


def attack_rows(task, member, epsilon, rows):
    """Run a Member on a batch of rows: (entry, a dict for JSON; images of its rows "fooled").

    Each run attacks what the previous one left robust; a forward pass outside the attack decides
    what is fooled.
    """
    start, robust, tried, forwards = time.monotonic(), rows, 0, 0
    fooled, adversarial, vanished = [], [], []
    ball, budget = {"p": task.p, "bounds": task.bounds}, np.asarray(epsilon, task.images.dtype)
    for number in range(member.num_runs):
        if len(robust) == 0:
            break
        images, labels = task.images[robust], task.labels[robust]
        padded = _pad(robust, task.batch_size)
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(task.key, padded)
        batch = split_batch((task.images[padded], task.labels[padded], keys))
        outputs = run_member(task.logits_fn, *batch, budget, number, member=member, **ball)
        x, has_vanished, queries = (np.asarray(array)[: len(robust)] for array in outputs)
        require_finite("the logits under attack", robust, x)
        check_perturbation(x, images, epsilon=epsilon, **ball)
        is_lost = np.argmax(predict(task, robust, x), axis=1) != labels
        fooled.append(robust[is_lost])
        adversarial.append(x[is_lost])
        vanished.append(robust[has_vanished])
        forwards += len(robust) * (member.forwards + 1) + int(np.sum(queries))
        tried += len(robust)
        robust = robust[~is_lost]
    fooled, adversarial = np.concatenate(fooled), np.concatenate(adversarial)
    entry = {
        "attack": member.name,
        "epsilon": epsilon,
        "rows": rows.tolist(),
        "fooled": fooled.tolist(),
        "vanished": len(np.unique(np.concatenate(vanished))),  # images, in any of the runs
        "gradients": tried * member.gradients,
        "forwards": forwards,
        "largest": perturbation_norms(adversarial, task.images[fooled], p=task.p).max(initial=0),
        "low": float(adversarial.min(initial=task.bounds[1])),
        "high": float(adversarial.max(initial=task.bounds[0])),
        "seconds": time.monotonic() - start,
    }
    return entry, adversarial


@functools.partial(jax.jit, static_argnames=("member", "p", "bounds"))
def run_member(logits_fn, images, labels, keys, epsilon, run, *, member, p, bounds):
    """Do one run of a Member: (images, whether the gradient vanished [n], queries [n]).

    The batch is split over the local devices, whose loops run independently. `run` is the number
    of the restart, or the rank of the target among the wrong classes.
    """
    on_devices = jax.shard_map(
        functools.partial(_on_one_device, member=member, p=p, bounds=bounds),
        mesh=device_mesh(),
        in_specs=(EVERYWHERE, SPLIT, SPLIT, SPLIT, EVERYWHERE, EVERYWHERE),
        out_specs=SPLIT,
        check_vma=False,
    )
    return on_devices(logits_fn, images, labels, keys, epsilon, run)


def _on_one_device(logits_fn, images, labels, keys, epsilon, run, *, member, p, bounds):
    keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, run)
    inputs, call = (logits_fn, images, labels, keys), {"p": p, "epsilon": epsilon, "bounds": bounds}
    vanished, queries = jnp.zeros(labels.shape, bool), jnp.zeros(labels.shape, int)
    if member.name == "square":
        x, queries = run_square(*inputs, num_queries=NUM_QUERIES, **call)
        return x, vanished, queries
    targets = None
    if member.is_targeted:
        logits = logits_fn(images)
        is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
        ranked = jnp.argsort(jnp.where(is_label, -jnp.inf, logits), axis=-1, descending=True)
        targets = ranked[:, run]
    call |= {"targets": targets, "num_steps": NUM_STEPS}
    if member.name.startswith("apgd"):
        call |= {"loss": member.loss, "num_samples": member.num_samples, "with_vanished": True}
        x, vanished = apgd(*inputs, **call)
    else:
        x = fab(*inputs, restarts=1 if member.is_targeted else FAB_RESTARTS, **call)
    return x, vanished, queries


def _pad(array, batch_size):
    """Repeat the first row until the devices share the rows evenly and batches have few sizes."""
    step = round_up_to_devices(-(-batch_size // SIZES))
    return np.concatenate([array, np.repeat(array[:1], -len(array) % step, axis=0)])
