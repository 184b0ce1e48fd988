"""The attacks of AutoAttack and their settings (Croce & Hein, ICML 2020, arXiv 2003.01690)."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from advspur._checks import check_choice, require
from advspur._devices import EVERYWHERE, SPLIT, device_mesh
from advspur.attacks.apgd import run_apgd
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


class Member(NamedTuple):
    """An attack of the ensemble; it is run `num_runs` times, on what is still robust."""

    name: str  # as AutoAttack writes it
    loss: str
    num_runs: int  # restarts, or targets
    is_targeted: bool
    num_samples: int | None
    gradients: int  # of one run on one image
    forwards: int  # beside those; Square's queries come on top


def members(version, attacks, *, p, num_classes):
    """([Member], what was changed because there are too few classes, as texts)."""
    if version != "custom":
        check_choice("version", version, tuple(VERSIONS))
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


def most_passes(version, attacks, *, p, num_classes):
    """Forward passes over an image on which no attack succeeds; a gradient counts as three."""
    total = 1
    for member in members(version, attacks, p=p, num_classes=num_classes)[0]:
        queries = NUM_QUERIES if member.name == "square" else 0
        total += member.num_runs * (3 * member.gradients + member.forwards + queries + 1)
    return total


@functools.partial(jax.jit, static_argnames=("member", "p", "bounds"))
def run_member(logits_fn, images, labels, keys, epsilon, run, *, member, p, bounds):
    """Run number `run` of a Member: (images, vanished gradients [n], queries [n]).

    Split over the local devices; each runs loops of its own and waits for no other.

    Args:
      logits_fn: a pytree (`jax.tree_util.Partial`): one compilation serves all models of a kind.
      keys: one an image.
      run: number of the restart, or rank of the target among the wrong classes; traced.
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
    call = {"p": p, "epsilon": epsilon, "bounds": bounds}
    no_flags, no_queries = jnp.zeros(labels.shape, bool), jnp.zeros(labels.shape, int)
    if member.name == "square":
        x, _, queries = run_square(logits_fn, images, labels, keys, num_queries=NUM_QUERIES, **call)
        return x, no_flags, queries
    targets = None
    if member.is_targeted:
        logits = logits_fn(images)
        is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
        ranked = jnp.argsort(jnp.where(is_label, -jnp.inf, logits), axis=-1, descending=True)
        targets = ranked[:, run]
    call |= {"targets": targets, "num_steps": NUM_STEPS}
    if member.name.startswith("apgd"):
        call |= {"loss": member.loss, "num_samples": member.num_samples, "restarts": 1}
        x, _, vanished = run_apgd(logits_fn, images, labels, keys, **call)
        return x, vanished, no_queries
    if not member.is_targeted:
        call["restarts"] = FAB_RESTARTS
    return fab(logits_fn, images, labels, keys, **call), no_flags, no_queries
