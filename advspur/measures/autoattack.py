"""AutoAttack on a named list of images: clean and robust accuracy, and what each attack took.

Lists longer than SHARE are cut into shares of every k-th image, each attacked by itself and with a
folder of its own, so memory is bounded. A killed evaluation resumes at the batch it was in.
"""

import hashlib
import math
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from advspur import __version__
from advspur._checks import check_choice, check_numbers, norm_name, require
from advspur._files import tree_digest
from advspur.attacks import security_curve
from advspur.attacks.ensemble import most_passes
from advspur.data.batches import eval_batches
from advspur.data.image_lists import image_list
from advspur.data.transforms import to_unit
from advspur.intervals import Estimate, wilson
from advspur.predict import check_is_model
from advspur.records import record

SHARE = 1000  # images at most
VERSIONS = ("standard", "plus")  # "rand" is for random models; a Classifier is none


class Budget(NamedTuple):
    """What AutoAttack found at one budget; sums over the shares."""

    counts: np.ndarray  # [4]: images, right without an attack, robust, warnings
    costs: np.ndarray  # [attacks, 5]: attacked, fooled, gradients, forwards, seconds
    names: tuple  # of the attacks


def plan_autoattack(
    parts, *, num_images, images, l1_epsilons, l2_epsilons, linf_epsilons, version, batch_size
):
    """The most forward passes over an image that `autoattack_records` makes: if none succeeds."""
    curves = _curves(l1_epsilons, l2_epsilons, linf_epsilons, version)
    passes = 0
    for part, table in parts.items():
        _, rows = image_list(table, part, images, num_images)
        passes += sum(_most(curve, rows, version, table.num_classes) for curve in curves)
    return passes


def autoattack_records(
    model,
    parts,
    *,
    key,
    num_images=1000,
    images="spread",
    l1_epsilons=(),
    l2_epsilons=(),
    linf_epsilons=(4 / 255,),
    version="standard",
    batch_size=100,
    cache_dir=None,
    progress=None,
):
    """`autoattack_accuracy` of each part and budget, with what each attack took.

    `autoattack_clean_accuracy` is the accuracy on the same images without an attack.

    Args:
      model: with the classes of the data.
      key: of the attacks.
      num_images: length of the list of images.
      images: "spread", "first", or a text file with their names; see `image_list`.
      l1_epsilons, l2_epsilons, linf_epsilons: budgets, [0, 1] pixel units.
      version: "standard" or "plus".
      batch_size: images an attack takes at once.
      cache_dir: where the attacks keep what is done.
    """
    curves = _curves(l1_epsilons, l2_epsilons, linf_epsilons, version)
    records = []
    for part, whole in parts.items():
        name, rows = image_list(whole, part, images, num_images)
        call = {"version": version, "batch_size": batch_size}
        for index, (p, epsilons) in enumerate(curves):
            budgets = _curve(model, whole.subset(rows), p, epsilons, call, key, cache_dir, progress)
            if index == 0:
                clean = wilson(budgets[0].counts[1], len(rows))
                about = {"part": part, "images": name}
                records.append(record("autoattack_clean_accuracy", clean, options=about))
            for epsilon, budget in zip(epsilons, budgets, strict=True):
                norm = "inf" if p == math.inf else p
                about = {"p": norm, "epsilon": epsilon, "version": version}
                about |= {"part": part, "images": name}
                records += _records(budget, about)
                if progress is not None:
                    title = f"{norm_name(p)}, epsilon = {epsilon:g}, {name}"
                    for text in _cost_table(budget, title):
                        progress.line(text)
    return records


def _curves(l1_epsilons, l2_epsilons, linf_epsilons, version):
    """[(p, budgets in ascending order)] of the norms that have any."""
    check_choice("version", version, VERSIONS)
    of_norms = ((1.0, l1_epsilons), (2.0, l2_epsilons), (math.inf, linf_epsilons))
    for p, epsilons in of_norms:
        check_numbers(f"{norm_name(p)}_epsilons", epsilons)
    curves = [(p, sorted(set(map(float, epsilons)))) for p, epsilons in of_norms if epsilons]
    require(curves, "no budget is given: set l1_epsilons, l2_epsilons or linf_epsilons")
    return curves


def _most(curve, images, version, num_classes):
    p, epsilons = curve
    passes = most_passes(version, None, p=p, num_classes=num_classes)
    return passes * len(epsilons) * len(images)


def _curve(model, table, p, epsilons, call, key, cache_dir, progress):
    """[Budget] of the epsilons of one norm."""
    check_is_model(model)
    left = _most((p, epsilons), table, call["version"], model.num_classes)
    num_shares = -(-len(table) // SHARE)

    def advance(passes):
        nonlocal left
        passes = min(passes, left)
        left -= passes
        if progress is not None:
            progress.advance(passes)

    shares = []
    for share in range(num_shares):
        chosen = table.subset(range(share, len(table), num_shares))
        images, labels = _read(chosen, call["batch_size"])
        asked = call | {"p": p, "epsilons": epsilons}
        if progress is not None and num_shares > 1:
            progress.line(f"share {share + 1} of {num_shares}: {len(labels)} images")
        results = security_curve(
            model.logits,
            to_unit(images),
            labels,
            jax.random.fold_in(key, share),
            **asked,
            directory=_directory(cache_dir, model, asked, key, share, images, labels),
            keep_images=False,
            log=None if progress is None else progress.line,
            advance=advance,
        )
        shares.append([_found(result) for result in results])
    if progress is not None:
        progress.skip(left)  # what was fooled early takes no more
    return [_sum(of_shares) for of_shares in zip(*shares, strict=True)]


def _read(table, batch_size):
    """(uint8 images, labels) of a Table."""
    size = table.image_size
    batches = list(eval_batches(table, batch_size=batch_size, image_size=size))
    return [np.concatenate([batch[i][batch.valid] for batch in batches]) for i in (0, 1)]


def _directory(cache_dir, model, asked, key, share, *arrays):
    """The folder of an attack, named by all that it depends on; None without `cache_dir`."""
    if cache_dir is None or model.digest is None:
        return None
    parts = [model.digest, tree_digest(arrays), asked, jax.random.key_data(key).tolist(), share]
    text = "\n".join(map(str, [*parts, __version__]))
    return Path(cache_dir) / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.autoattack"


def _found(result):
    """(counts, costs, names) of one AutoAttackResult."""
    count = len(result.robust)
    counts = [count, result.clean_correct.sum(), result.robust.sum(), len(result.warnings)]
    costs = []
    for cost in result.attacks:
        fooled = cost.num_attacked - round(cost.robust_accuracy * count)
        costs.append([cost.num_attacked, fooled, cost.gradients, cost.forwards, cost.seconds])
    return counts, costs, [cost.name for cost in result.attacks]


def _sum(of_shares):
    """One Budget from those of the shares."""
    counts, costs, names = zip(*of_shares, strict=True)
    return Budget(np.sum(counts, axis=0), np.sum(costs, axis=0), tuple(names[0]))


def _records(budget, about):
    """The numbers of one budget; a count has no interval."""
    count, _, robust, warnings = map(int, budget.counts)
    seconds = float(budget.costs[:, -1].sum())
    records = [
        record("autoattack_accuracy", wilson(robust, count), options=about, seconds=seconds),
        record("autoattack_warnings", _count(warnings, count), options=about),
    ]
    for name, cost in zip(budget.names, budget.costs, strict=True):
        attacked, fooled, gradients, forwards, seconds = cost.tolist()
        of_attack = {"options": about | {"after": name}, "seconds": seconds}
        left = wilson(attacked - fooled, count)
        records += [
            record("autoattack_accuracy", left, **of_attack),
            record("autoattack_gradients", _count(gradients, count), **of_attack),
            record("autoattack_forwards", _count(forwards, count), **of_attack),
        ]
    return records


def _count(value, num_examples):
    return Estimate(value, value, value, num_examples)


def _cost_table(budget, title):
    """The lines of a table: what each attack was given, found and took."""
    columns = ("attacked", "fooled", "gradients", "forwards", "seconds")
    yield f"{title}: what each attack took"
    yield f"{'attack':10}" + "".join(f"{column:>12}" for column in columns)
    for name, (*counts, seconds) in zip(budget.names, budget.costs, strict=True):
        yield f"{name:10}" + "".join(f"{n:12,.0f}" for n in counts) + f"{seconds:12,.1f}"
