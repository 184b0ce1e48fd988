"""AutoAttack: an image is robust if every attack of a fixed ensemble fails.

Each attack sees only the images that the previous ones left robust (Croce & Hein, ICML 2020, arXiv
2003.01690; l1: Croce & Hein, ICML 2021, arXiv 2103.01208). They are packed into batches of few
sizes, to compile rarely, and split over the local devices.

>>> logits_fn = lambda x: jnp.stack([x.sum((1, 2, 3)), 6 - x.sum((1, 2, 3))], axis=1)
>>> x = np.full((1, 2, 2, 1), 0.9, "float32")  # 3.6 against 2.4
>>> [bool(autoattack(logits_fn, x, [0], p=np.inf, epsilon=e).robust[0]) for e in (0.1, 0.2)]
[True, False]
"""

import contextlib
import hashlib
import json
import numbers
import os
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advspur import __version__
from advspur._checks import check_attack, check_choice, check_count, norm_name, require
from advspur._files import tree_digest
from advspur.attacks.checks import SEE, model_warnings, vanished_text
from advspur.attacks.ensemble import VERSIONS, Task, as_pytree, attack_rows, members, predict
from advspur.attacks.parts import count_classes

TOLERANCE = 0.002  # of an accuracy, in warnings


class AttackCost(NamedTuple):
    """The images that an attack left robust, and its cost; APGD-CE also checks monotonicity."""

    name: str
    robust_accuracy: float  # after this attack and those before it
    num_attacked: int
    gradients: int
    forwards: int
    seconds: float


class AutoAttackResult(NamedTuple):
    """Images, outcomes and costs of one budget, on the host."""

    images: object  # [n, h, w, c]: adversarial if one was found, else as given; None if not kept
    fooled_by: np.ndarray  # [n] str: the attack, "clean" if misclassified before, "" if robust
    attacks: tuple  # of AttackCost
    warnings: tuple  # of str; docs/attacks.md explains each
    p: float
    epsilon: float

    @property
    def robust(self):
        """[n] bool: classified correctly, and no attack succeeded."""
        return self.fooled_by == ""

    @property
    def clean_correct(self):
        """[n] bool: classified correctly without an attack."""
        return self.fooled_by != "clean"

    @property
    def robust_accuracy(self):
        """Share of all images that are robust."""
        return float(np.mean(self.robust))

    @property
    def clean_accuracy(self):
        """Share of all images that are classified correctly without an attack."""
        return float(np.mean(self.clean_correct))


def autoattack(logits_fn, images, labels, key=None, *, p, epsilon, **options):
    """Return the AutoAttackResult of one budget; see `security_curve` for the arguments."""
    (result,) = security_curve(logits_fn, images, labels, key, p=p, epsilons=[epsilon], **options)
    return result


def security_curve(
    logits_fn,
    images,
    labels,
    key=None,
    *,
    p,
    epsilons,
    version="standard",
    attacks=None,
    batch_size=250,
    bounds=(0.0, 1.0),
    directory=None,
    keep_images=True,
    log=None,
    advance=None,
):
    """Run AutoAttack at several budgets; an image lost at one budget counts as lost at larger ones.

    Arguments as in `pgd`, except:

    Args:
      logits_fn: with `version="rand"`, (images, key) -> logits, with one key per batch. A method of
        a pytree (such as `Classifier.logits`) is compiled once for all models of its kind.
      key: PRNG key; None: jax.random.key(0). The attacks on an image depend only on the key and on
        its position, except through the outputs of a random model.
      epsilons: budgets in the units of `images`.
      version: "standard" (APGD-CE, targeted APGD-DLR, targeted FAB, Square), "plus" (with APGD-DLR,
        FAB and restarts) or "rand" (random models: APGD with expectation over transformation).
      attacks: names of attacks to run instead, with the settings of `version`.
      batch_size: images an attack takes at once.
      directory: where outcomes are kept, so that the same call resumes after a kill. Images are not
        kept, so results have none.
      keep_images: whether results without a directory have the adversarial images.
      log: function that takes the lines that AutoAttack prints.
      advance: function that takes numbers of forward passes (a gradient counts as three).
    Returns: [AutoAttackResult], in the order of `epsilons`.
    Raises: InputError for bad arguments, logits that are not finite, a random model, or a
      perturbation outside ball or box.
    """
    are_numbers = all(isinstance(epsilon, numbers.Real) for epsilon in epsilons)
    require(epsilons and are_numbers, f"epsilons = {epsilons}: give one or more numbers")
    epsilons = [float(epsilon) for epsilon in epsilons]
    check_count("batch_size", batch_size)
    check_choice("version", version, tuple(VERSIONS))
    images, labels = np.asarray(images), np.asarray(labels)
    require(len(images) > 0, "there are no images to attack")
    for epsilon in epsilons:
        check_attack(images, labels, p=p, epsilon=epsilon, bounds=bounds)
    # With JAX's dtype, so that the images checked are those attacked; 16 bits are too few.
    dtype = jnp.promote_types(images.dtype, jnp.float32)
    images = images.astype(jax.dtypes.canonicalize_dtype(dtype))
    bounds = tuple(map(float, bounds))
    key = jax.random.key(0) if key is None else key
    log, advance = log or (lambda text: None), advance or (lambda passes: None)
    is_random = version == "rand"
    version = "custom" if attacks is not None and version == "standard" else version
    num_classes = count_classes(logits_fn, images, labels, *([key] if is_random else []))
    ensemble, notes = members(version, attacks, p=p, num_classes=num_classes)
    task = Task(as_pytree(logits_fn), images, labels, key, p, bounds, batch_size, is_random)

    clean = predict(task, np.arange(len(labels)), images)
    again = predict(task, np.arange(len(labels))[:batch_size], images[:batch_size])
    warnings = model_warnings(clean, again, is_random=is_random)
    advance(len(images))
    predictions = np.argmax(clean, axis=1)
    path = None
    if directory is not None:
        # The rounded size of the logits stands for the hidden weights of a plain function.
        size = f"{np.linalg.norm(clean):.4g}"
        digest = tree_digest((images, labels, predictions, key, task.logits_fn))
        identity = [norm_name(p), version, batch_size, bounds, digest, size, __version__]
        name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
        path = Path(directory) / f"{name}.jsonl"
    kept = path, _read_entries(path)

    results, fooled_by = {}, np.where(predictions == labels, "", "clean").astype("<U16")
    adversarial = images if keep_images and directory is None else None
    for epsilon in sorted(epsilons):
        log(f"using {version} version including {', '.join(m.name for m in ensemble)}.")
        for text in (*notes, *(f"Warning: {text}" for text in warnings)):
            log(text)
        before = fooled_by, adversarial
        result = _one_budget(task, ensemble, epsilon, before, kept, log, advance)
        fooled_by, adversarial = result.fooled_by, result.images
        results[epsilon] = result._replace(warnings=(*warnings, *result.warnings))
    return [results[epsilon] for epsilon in epsilons]


def _read_entries(path):
    """Read {(attack, epsilon, rows): entry of `attack_rows`} from the lines of a file, if any."""
    entries = {}
    text = path.read_text(errors="replace") if path is not None and path.exists() else ""
    for line in text.split("\n"):
        with contextlib.suppress(ValueError, KeyError, TypeError):  # half a line, after a kill
            entry = json.loads(line)
            entries[entry["attack"], entry["epsilon"], tuple(entry["rows"])] = entry
    return entries


def _append(path, entry):
    """Write down a finished batch, so that a kill loses only the batch in progress."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write("\n" + json.dumps(entry))  # the newline ends the half line left by a kill
        file.flush()
        os.fsync(file.fileno())


def _one_budget(task, ensemble, epsilon, before, kept, log, advance):
    """Run all attacks at one budget, after smaller ones that left (fooled_by, images) `before`."""
    (lost_before, images), (path, done) = before, kept
    fooled_by, warnings, costs, all_entries = lost_before.copy(), [], [], []
    images = None if images is None else images.copy()

    def run(member, rows, again=""):
        """Return one entry for each batch of `rows`."""
        entries = []
        batches = [rows[i : i + task.batch_size] for i in range(0, len(rows), task.batch_size)]
        for index, batch in enumerate(batches):
            entry = done.get((member.name, epsilon, tuple(batch.tolist())))
            if entry is None:
                entry, adversarial = attack_rows(task, member, epsilon, batch)
                if path is not None:
                    _append(path, entry)
                if images is not None and not again:  # `again` keeps those of a smaller budget
                    images[entry["fooled"]] = adversarial
            entries.append(entry)
            advance(3 * entry["gradients"] + entry["forwards"])
            log(
                f"{member.name}{again} - {index + 1}/{len(batches)} - {len(entry['fooled'])} out "
                f"of {len(batch)} successfully perturbed"
            )
        all_entries.extend(entries)
        return entries

    def warn(text):
        warnings.append(f"{text} {SEE}")
        log(f"Warning: {warnings[-1]}")

    log(f"initial accuracy: {np.mean(fooled_by != 'clean'):.2%}")
    for member in ensemble:
        rows, accuracy_before = np.flatnonzero(fooled_by == ""), np.mean(fooled_by == "")
        entries = run(member, rows)
        for entry in entries:
            fooled_by[entry["fooled"]] = member.name
        accuracy = float(np.mean(fooled_by == ""))
        if member.name == "apgd-ce" and "apgd-ce" in lost_before:
            easier = np.flatnonzero(lost_before == "apgd-ce")
            entries_again = run(member, easier, " again")
            missed = len(easier) - sum(len(entry["fooled"]) for entry in entries_again)
            if missed > TOLERANCE * len(fooled_by):
                warn(
                    f"accuracy is not monotone in epsilon: apgd-ce misses {missed} of "
                    f"{len(easier)} images that it fooled with a smaller one."
                )
            entries += entries_again
        names = ("gradients", "forwards", "seconds", "vanished")
        *totals, vanished = (sum(entry[name] for entry in entries) for name in names)
        costs.append(AttackCost(member.name, accuracy, len(rows), *totals))
        if vanished:
            warn(vanished_text(vanished, member.name))
        log(
            f"robust accuracy after {member.name.upper()}: {accuracy:.2%} "
            f"(total time {sum(cost.seconds for cost in costs):.1f} s)"
        )
        lowered = accuracy_before - accuracy
        if member.name == "square" and len(costs) > 1 and lowered > TOLERANCE:
            warn(f"Square has lowered the robust accuracy by {lowered:.2%}.")
    largest = max((entry["largest"] for entry in all_entries), default=0.0)
    high = max([task.images.max(), *(entry["high"] for entry in all_entries)])
    low = min([task.images.min(), *(entry["low"] for entry in all_entries)])
    log(
        f"max {norm_name(task.p).capitalize()} perturbation: {largest:.5f}, nan in tensor: 0, "
        f"max: {high:.5f}, min: {low:.5f}"
    )
    log(f"robust accuracy: {np.mean(fooled_by == ''):.2%}")
    return AutoAttackResult(images, fooled_by, tuple(costs), tuple(warnings), task.p, epsilon)
