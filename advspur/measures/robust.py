"""Accuracy under PGD at several budgets, for all images and for majority and minority."""

import functools
import math

import jax
import jax.numpy as jnp

from advspur import metrics
from advspur._checks import check_choice, check_count, check_epsilon, check_numbers
from advspur.attacks import check_perturbation, pgd
from advspur.data.image_lists import image_list
from advspur.data.transforms import to_unit
from advspur.measures.groups import group_estimates
from advspur.predict import correct, correct_on, outcomes
from advspur.records import record

STARTS = ("image", "ball")


def attack_passes(num_steps):
    """Forward passes an attacked image takes; a gradient counts as three."""
    return 3 * num_steps + 3


def plan_pgd(parts, *, l2_epsilons, linf_epsilons, num_steps, num_attacked, images, start):
    """Forward passes over an image that `pgd_records` makes; its options are checked."""
    check_count("num_steps", num_steps)
    check_count("num_attacked", num_attacked)
    check_numbers("l2_epsilons", l2_epsilons)
    check_numbers("linf_epsilons", linf_epsilons)
    check_choice("start", start, STARTS)
    budgets = len(l2_epsilons) + len(linf_epsilons)
    count = sum(len(image_list(t, part, images, num_attacked)[1]) for part, t in parts.items())
    return count * budgets * attack_passes(num_steps)


def pgd_records(
    model,
    parts,
    *,
    key,
    l2_epsilons=(0.25, 0.5, 1.0),
    linf_epsilons=(0.25 / 255, 0.5 / 255, 1 / 255),
    num_steps=10,
    num_attacked=500,
    images="spread",
    start="image",
    **running,
):
    """`pgd_accuracy` of each part and budget; where it has a majority, of that and the minority.

    At budget 0 stands the clean accuracy of the images that are attacked.

    Args:
      num_steps: PGD steps of 2.5 epsilon / num_steps; the iterate of highest loss counts.
      num_attacked, images: how many of a part, and which; see `image_list`.
      start: from the "image", or from a random point of the "ball", of `key`.
    """
    records = []
    for part, table in parts.items():
        whole = correct_on(model, table, **running)["correct"]
        _, rows = image_list(table, part, images, num_attacked)
        chosen = table.subset(rows)
        for p, epsilons in ((2.0, l2_epsilons), (math.inf, linf_epsilons)):
            about = {"p": "inf" if p == math.inf else p, "num_steps": num_steps, "part": part}
            budgets = {0.0: whole[rows]} if epsilons else {}
            for epsilon in epsilons:
                attack = {"p": p, "epsilon": epsilon, "num_steps": num_steps}

                def measure(batch, numbers, attack=attack):
                    if start == "ball":
                        fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
                        attack = attack | {"keys": fold(key, numbers)}
                    return {"correct": correct_under_pgd(model, batch.image, batch.label, **attack)}

                kept = [about, epsilon, start]
                kept += jax.random.key_data(key).tolist() if start == "ball" else []
                call = running | {"passes": attack_passes(num_steps)}
                budgets[epsilon] = outcomes(measure, model, chosen, kept, **call)["correct"]
            for epsilon, right in budgets.items():
                estimates = {"pgd_accuracy": metrics.accuracy(right)}
                if "is_majority" in chosen.columns:
                    majority = chosen.columns["is_majority"]
                    estimates = group_estimates("pgd_accuracy", right, majority)
                options = about | {"epsilon": epsilon}
                records += [record(name, e, options=options) for name, e in estimates.items()]
    return records


@functools.partial(jax.jit, static_argnames=("p", "num_steps"))
def _attack(classifier, images, labels, keys, **call):
    start = "none" if keys is None else "ball"
    adversarial = pgd(classifier.logits, images, labels, keys, random_start=start, **call)
    # Loss, not success, decides among iterates; the clean image belongs to the ball too.
    survives = correct(classifier.logits(adversarial), labels)
    survives *= correct(classifier.logits(images), labels)
    # Where the model is not finite the attack gives no image, and `survives` says so.
    is_image = ~jnp.any(jnp.isnan(adversarial), axis=(1, 2, 3))
    survives = jnp.where(is_image, survives, jnp.nan)
    adversarial = jnp.where(is_image[:, None, None, None], adversarial, images)
    return survives, adversarial


def correct_under_pgd(classifier, images, labels, *, p, epsilon, num_steps, keys=None, mask=None):
    """[n]: `correct` on the image and on its PGD image; ball, box and mask are checked.

    Args:
      keys: [n], of random starts in the ball; None: from the image.
      mask: bool, broadcastable to the images: where they may be changed.
    """
    check_epsilon(epsilon, p, num_pixels=math.prod(images.shape[1:]))
    weights = None if mask is None else mask.astype("float32")
    # Divided once: compiled code may round pixels / 255 in two ways.
    images = to_unit(images)
    ball = {"p": p, "budget_weights": weights}
    call = ball | {"epsilon": jnp.float32(epsilon), "num_steps": num_steps}
    survives, adversarial = _attack(classifier, images, labels, keys, **call)
    check_perturbation(adversarial, images, epsilon=epsilon, **ball)
    return survives
