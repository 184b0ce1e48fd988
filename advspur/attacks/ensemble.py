"""The attacks of AutoAttack, with their published settings, and one of them on a batch."""

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
    """An attack of the ensemble; it is run `num_runs` times, on what is still robust."""

    name: str  # as AutoAttack writes it
    loss: str
    num_runs: int  # restarts, or targets
    is_targeted: bool
    num_samples: int | None
    gradients: int  # of one run on one image
    forwards: int  # beside those; Square's queries come on top


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


def members(version, attacks, *, p, num_classes):
    """([Member], what was changed because there are too few classes, as texts)."""
    attacks = VERSIONS[version] if attacks is None else attacks
    # Only these take logits_fn(images, key).
    allowed = VERSIONS["rand"] if version == "rand" else sorted((*LOSSES, "fab", "fab-t", "square"))
    unknown = [name for name in attacks if name not in allowed]
    require(attacks and not unknown, f"attacks = {attacks}: allowed are {', '.join(allowed)}")
    require(len(set(attacks)) == len(attacks), f"attacks = {attacks}: an attack is named twice")
    found, notes = [], []
    for name in attacks:
        loss, is_targeted = LOSSES.get(name, ""), name.endswith("-t")
        if loss == "dlr" and num_classes < 3 + is_targeted:
            loss = "margin"
            notes.append(f"{name}: DLR needs {3 + is_targeted} classes, its loss is the margin")
        runs = 1
        if is_targeted:
            wanted = 5 if name == "apgd-t" and p == 1 and version != "plus" else 9
            runs = min(wanted, num_classes - 1)
            if runs < wanted:
                notes.append(f"{name}: {runs} targets instead of {wanted}")
        elif name.startswith("apgd") and (version == "plus" or (p == 1 and version != "rand")):
            runs = 5
        samples = NUM_SAMPLES if version == "rand" else None
        gradients, forwards = 0, 2
        if name.startswith("apgd"):
            forwards = (samples is None) + is_targeted  # the image itself; its classes' order
            gradients = (NUM_STEPS + (3 if p == 1 else 1)) * (samples or 1)
        elif name.startswith("fab"):
            runs_inside = 1 if is_targeted else FAB_RESTARTS
            gradients = NUM_STEPS * runs_inside * (1 if is_targeted else num_classes)
            forwards = (NUM_STEPS + NUM_HALVINGS) * runs_inside + 1 + is_targeted
        found.append(Member(name, loss, runs, is_targeted, samples, gradients, forwards))
    return found, notes


def most_passes(version, *, p, num_classes):
    """Forward passes over an image on which no attack succeeds; a gradient counts as three."""
    total = 1
    for member in members(version, None, p=p, num_classes=num_classes)[0]:
        queries = NUM_QUERIES if member.name == "square" else 0
        total += member.num_runs * (3 * member.gradients + member.forwards + queries + 1)
    return total


def as_pytree(logits_fn):
    """A `jax.tree_util.Partial`: the arrays of a method's object are its leaves.

    One compilation then serves all models that differ in their arrays only.
    """
    owner = getattr(logits_fn, "__self__", None)
    if isinstance(logits_fn, jax.tree_util.Partial):
        return logits_fn
    if inspect.ismethod(logits_fn) and not jax.tree_util.all_leaves([owner]):
        return jax.tree_util.Partial(logits_fn.__func__, owner)
    return jax.tree_util.Partial(logits_fn)


def predict(task, rows, images):
    """Logits [n, k] of `images`, which are those of `rows` or adversarial ones, on the host."""
    found = []
    of_model = jax.random.fold_in(task.key, len(task.images))  # the attacks have keys 0 to n - 1
    for start in range(0, len(rows), task.batch_size):
        part = slice(start, start + task.batch_size)
        sample = (jax.random.fold_in(of_model, rows[start]),) if task.is_random else ()
        x = split_batch(_pad(np.asarray(images[part]), task.batch_size))
        logits = np.asarray(task.logits_fn(x, *sample), np.float32)[: len(rows[part])]
        require_finite("the logits", rows[part], logits)
        found.append(logits)
    return np.concatenate(found)


def attack_rows(task, member, epsilon, rows):
    """One Member on a batch of rows: (an entry, a dict for JSON; images of its rows "fooled").

    Each of its runs is on what the one before left robust; a forward pass outside of the attack
    says what is fooled.
    """
    start, left, tried, forwards = time.monotonic(), rows, 0, 0
    fooled, adversarial, vanished = [], [], []
    for number in range(member.num_runs):
        if len(left) == 0:
            break
        images, labels, padded = task.images[left], task.labels[left], _pad(left, task.batch_size)
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(task.key, padded)
        given = split_batch((task.images[padded], task.labels[padded], keys))
        own, budget = {"p": task.p, "bounds": task.bounds}, np.asarray(epsilon, images.dtype)
        found = run_member(task.logits_fn, *given, budget, number, member=member, **own)
        x, has_vanished, queries = (np.asarray(array)[: len(left)] for array in found)
        require_finite("the logits under attack", left, x)
        check_perturbation(x, images, epsilon=epsilon, **own)
        is_lost = np.argmax(predict(task, left, x), axis=1) != labels
        fooled.append(left[is_lost])
        adversarial.append(x[is_lost])
        vanished.append(left[has_vanished])
        forwards += len(left) * (member.forwards + 1) + int(np.sum(queries))
        tried += len(left)
        left = left[~is_lost]
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
    """Run number `run` of a Member: (images, vanished gradients [n], queries [n]).

    Split over the local devices; each runs loops of its own and waits for no other. The run is the
    number of the restart, or the rank of the target among the wrong classes.
    """
    on_device = jax.shard_map(
        functools.partial(_on_one_device, member=member, p=p, bounds=bounds),
        mesh=device_mesh(),
        in_specs=(EVERYWHERE, SPLIT, SPLIT, SPLIT, EVERYWHERE, EVERYWHERE),
        out_specs=SPLIT,
        check_vma=False,
    )
    return on_device(logits_fn, images, labels, keys, epsilon, run)


def _on_one_device(logits_fn, images, labels, keys, epsilon, run, *, member, p, bounds):
    keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, run)
    given, call = (logits_fn, images, labels, keys), {"p": p, "epsilon": epsilon, "bounds": bounds}
    vanished, queries = jnp.zeros(labels.shape, bool), jnp.zeros(labels.shape, int)
    if member.name == "square":
        x, queries = run_square(*given, num_queries=NUM_QUERIES, **call)
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
        x, vanished = apgd(*given, **call)
    else:
        x = fab(*given, restarts=1 if member.is_targeted else FAB_RESTARTS, **call)
    return x, vanished, queries


def _pad(array, batch_size):
    """`array` with its first row repeated: whole on all devices, so that batches have few sizes."""
    step = round_up_to_devices(-(-batch_size // SIZES))
    return np.concatenate([array, np.repeat(array[:1], -len(array) % step, axis=0)])
