"""Accuracy under PGD at several budgets: of all images, of majority and minority."""

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
    """Return the forward passes of an attacked image; a gradient counts as three."""
    return 3 * num_steps + 3


def plan_pgd(parts, *, l2_epsilons, linf_epsilons, num_steps, num_attacked, images, start):
    """Return the number of single-image forward passes, of `pgd_records`; check its options."""
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
    """Measure `pgd_accuracy` of each part and budget; with a majority, also for it and the rest.

    Budget 0 holds the clean accuracy of the attacked images.

    Args:
      num_steps: PGD steps of 2.5 epsilon / num_steps; the iterate of highest loss counts.
      num_attacked, images: how many images of a part, and which; see `image_list`.
      start: "image", or "ball" for a random point drawn with `key`.
    """
    records = []
    for part, table in parts.items():
        clean = correct_on(model, table, **running)["correct"]
        _, rows = image_list(table, part, images, num_attacked)
        chosen = table.subset(rows)
        for p, epsilons in ((2.0, l2_epsilons), (math.inf, linf_epsilons)):
            options = {"p": "inf" if p == math.inf else p, "num_steps": num_steps, "part": part}
            budgets = {0.0: clean[rows]} if epsilons else {}
            for epsilon in epsilons:
                attack = {"p": p, "epsilon": epsilon, "num_steps": num_steps}

                def measure(batch, numbers, attack=attack):
                    if start == "ball":
                        fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
                        attack = attack | {"keys": fold(key, numbers)}
                    return {"correct": correct_under_pgd(model, batch.image, batch.label, **attack)}

                identity = [options, epsilon, start]
                identity += jax.random.key_data(key).tolist() if start == "ball" else []
                call = running | {"passes": attack_passes(num_steps)}
                budgets[epsilon] = outcomes(measure, model, chosen, identity, **call)["correct"]
            for epsilon, right in budgets.items():
                estimates = {"pgd_accuracy": metrics.accuracy(right)}
                if "is_majority" in chosen.columns:
                    majority = chosen.columns["is_majority"]
                    estimates = group_estimates("pgd_accuracy", right, majority)
                about = options | {"epsilon": epsilon}
                records += [record(name, e, options=about) for name, e in estimates.items()]
    return records


@functools.partial(jax.jit, static_argnames=("p", "num_steps"))
def _attack(classifier, images, labels, keys, **call):
    start = "none" if keys is None else "ball"
    adversarial = pgd(classifier.logits, images, labels, keys, random_start=start, **call)
    # PGD picks the iterate of largest loss, which may be right although the clean image is wrong.
    survives = correct(classifier.logits(adversarial), labels)
    survives *= correct(classifier.logits(images), labels)
    # If the model is not finite, the attack returns NaN; then `survives` is NaN.
    is_image = ~jnp.any(jnp.isnan(adversarial), axis=(1, 2, 3))
    survives = jnp.where(is_image, survives, jnp.nan)
    adversarial = jnp.where(is_image[:, None, None, None], adversarial, images)
    return survives, adversarial


def correct_under_pgd(classifier, images, labels, *, p, epsilon, num_steps, keys=None, mask=None):
    """Return `correct` on both the image and its PGD image [n]; check ball, box and mask.

    Args:
      keys: [n], for random starts in the ball; None starts at the image.
      mask: bool, broadcastable to the images: the pixels that may change.
    """
    check_epsilon(epsilon, p, num_pixels=math.prod(images.shape[1:]))
    weights = None if mask is None else mask.astype("float32")
    # Divide only once: compiled code may round pixels / 255 in two ways.
    images = to_unit(images)
    ball = {"p": p, "budget_weights": weights}
    call = ball | {"epsilon": jnp.float32(epsilon), "num_steps": num_steps}
    survives, adversarial = _attack(classifier, images, labels, keys, **call)
    check_perturbation(adversarial, images, epsilon=epsilon, **ball)
    return survives
