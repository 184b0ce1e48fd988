"""AutoAttack on a named list of images: clean and robust accuracy, and the cost of each attack.

Long lists are split into shares of every k-th image to bound memory. A killed evaluation resumes
with the batch in progress.
"""

import math
from pathlib import Path

import jax
import numpy as np

from advspur._checks import check_choice, check_numbers, norm_name, require
from advspur.attacks import security_curve
from advspur.attacks.ensemble import most_passes
from advspur.data.batches import eval_batches
from advspur.data.image_lists import image_list
from advspur.data.transforms import to_unit
from advspur.intervals import Estimate, wilson
from advspur.predict import check_is_model
from advspur.records import record

SHARE = 1000  # images at most
VERSIONS = ("standard", "plus")  # "rand" is for random models, which a Classifier is not


def plan_autoattack(
    parts, *, num_images, images, l1_epsilons, l2_epsilons, linf_epsilons, version, batch_size
):
    """Return the number of single-image forward passes, if no attack succeeds; check options."""
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
    """Measure `autoattack_accuracy` of each part and budget, and the cost of each attack.

    `autoattack_clean_accuracy` is the accuracy on the same images without an attack.

    Args:
      num_images, images: how many images, and which; see `image_list`.
      l1_epsilons, l2_epsilons, linf_epsilons: budgets for pixels in [0, 1].
      version: "standard" or "plus".
      cache_dir: where the attacks keep their outcomes.
    """
    check_is_model(model)
    curves = _curves(l1_epsilons, l2_epsilons, linf_epsilons, version)
    records, call = [], {"version": version, "batch_size": batch_size}
    if cache_dir is not None and model.digest is not None:
        call["directory"] = Path(cache_dir) / f"{model.digest[:32]}.autoattack"
    for part, whole in parts.items():
        name, rows = image_list(whole, part, images, num_images)
        of_list, table = {"part": part, "images": name}, whole.subset(rows)
        for index, (p, epsilons) in enumerate(curves):
            most = _most((p, epsilons), rows, version, model.num_classes)
            attack = call | {"p": p, "epsilons": epsilons}
            curve = list(zip(*_shares(model, table, key, most, progress, attack), strict=True))
            if index == 0:
                clean = wilson(sum(int(s.clean_correct.sum()) for s in curve[0]), len(rows))
                records.append(record("autoattack_clean_accuracy", clean, options=of_list))
            for epsilon, shares in zip(epsilons, curve, strict=True):
                norm = "inf" if p == math.inf else p
                options = {"p": norm, "epsilon": epsilon, "version": version} | of_list
                costs = _costs(shares)
                records += _records(shares, costs, len(rows), options)
                if progress is not None:
                    title = f"{norm_name(p)}, epsilon = {epsilon:g}, {name}"
                    for text in _cost_table(costs, title):
                        progress.line(text)
    return records


def _curves(l1_epsilons, l2_epsilons, linf_epsilons, version):
    """Return [(p, budgets in ascending order)] for the norms with budgets; check the options."""
    check_choice("version", version, VERSIONS)
    norms = ((1.0, l1_epsilons), (2.0, l2_epsilons), (math.inf, linf_epsilons))
    for p, epsilons in norms:
        check_numbers(f"{norm_name(p)}_epsilons", epsilons)
    curves = [(p, sorted(set(map(float, epsilons)))) for p, epsilons in norms if epsilons]
    require(curves, "no budget is given: set l1_epsilons, l2_epsilons or linf_epsilons")
    return curves


def _most(curve, images, version, num_classes):
    p, epsilons = curve
    return most_passes(version, p=p, num_classes=num_classes) * len(epsilons) * len(images)


def _shares(model, table, key, passes_left, progress, attack):
    """Return [[AutoAttackResult of a budget] of a share]; advance by `passes_left` in all."""

    def advance(passes):
        nonlocal passes_left
        passes = min(passes, passes_left)
        passes_left -= passes
        if progress is not None:
            progress.advance(passes)

    shares, number = [], -(-len(table) // SHARE)
    size = {"batch_size": attack["batch_size"], "image_size": table.image_size}
    for share in range(number):
        batches = eval_batches(table.subset(range(share, len(table), number)), **size)
        batches = [(batch.image[batch.valid], batch.label[batch.valid]) for batch in batches]
        images, labels = map(np.concatenate, zip(*batches, strict=True))
        if progress is not None and number > 1:
            progress.line(f"share {share + 1} of {number}: {len(labels)} images")
        results = security_curve(
            model.logits, to_unit(images), labels, jax.random.fold_in(key, share), **attack,
            keep_images=False, log=progress and progress.line, advance=advance,
        )  # fmt: skip
        shares.append(results)
    if progress is not None:
        progress.skip(passes_left)  # of images that were fooled early
    return shares


def _costs(shares):
    """Return {attack: [attacked, fooled, gradients, forwards, seconds]}, summed over the shares."""
    costs = {}
    for share in shares:
        for name, accuracy, attacked, *cost in share.attacks:
            fooled = attacked - round(accuracy * len(share.fooled_by))
            costs[name] = np.add(costs.get(name, 0.0), [attacked, fooled, *cost])
    return {name: cost.tolist() for name, cost in costs.items()}


def _records(shares, costs, count, options):
    """Return the records of one budget; accuracies have intervals, counts have none."""
    records, seconds = [], sum(cost[-1] for cost in costs.values())

    def add(metric, value, **facts):
        exact = Estimate(value, value, value, count)
        estimate = wilson(value, count) if metric == "accuracy" else exact
        records.append(record(f"autoattack_{metric}", estimate, **facts))

    add("accuracy", sum(int(s.robust.sum()) for s in shares), options=options, seconds=seconds)
    add("warnings", sum(len(share.warnings) for share in shares), options=options)
    for name, (attacked, fooled, gradients, forwards, seconds) in costs.items():
        of_attack = {"options": options | {"after": name}, "seconds": seconds}
        add("accuracy", attacked - fooled, **of_attack)
        add("gradients", gradients, **of_attack)
        add("forwards", forwards, **of_attack)
    return records


def _cost_table(costs, title):
    yield f"{title}: cost of each attack"
    columns = ("attacked", "fooled", "gradients", "forwards", "seconds")
    yield f"{'attack':10}" + "".join(f"{column:>12}" for column in columns)
    for name, (*counts, seconds) in costs.items():
        yield f"{name:10}" + "".join(f"{n:12,.0f}" for n in counts) + f"{seconds:12,.1f}"
