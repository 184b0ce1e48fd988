"""ImageNet-9's challenge: does any background make the prediction wrong?"""

import os
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np

from advspur import metrics
from advspur._checks import check_choice, check_count, require_finite
from advspur._devices import replicate, round_up_to_devices, split_batch
from advspur.data.table import spread
from advspur.data.transforms import to_unit
from advspur.predict import correct
from advspur.records import record


def plan_challenge(parts, *, objects, backgrounds, num_backgrounds):
    """Return the largest number of single-image forward passes; check the options."""
    check_count("num_backgrounds", num_backgrounds)
    num_objects, available = (len(parts.get(part, ())) for part in (objects, backgrounds))
    return num_objects * min(num_backgrounds, available)


def challenge_records(
    model,
    parts,
    *,
    key=None,
    objects="original",
    backgrounds="only_bg_t",
    num_backgrounds=4050,
    batch_size,
    cache_dir=None,
    progress=None,
):
    """Measure `challenge_accuracy`: the share of objects that are right on every background.

    The objects of a part with masks are pasted on `num_backgrounds` of a second part, spread over
    its classes (officially all 4,050), until the prediction is wrong.
    """
    check_choice("objects", objects, tuple(parts))
    check_choice("backgrounds", backgrounds, tuple(parts))
    table, batch_size = parts[objects], round_up_to_devices(batch_size)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        examples = list(pool.map(table.__getitem__, range(len(table))))
    names = ("image", "mask", "label")
    images, masks, labels = (np.stack([e[name] for e in examples]) for name in names)
    images, masks, labels = replicate((images, masks[..., :1], labels))  # the mask of the core
    tried = spread(len(parts[backgrounds]), min(num_backgrounds, len(parts[backgrounds])))
    stands = np.ones(len(table), bool)
    for index in tried:
        background = parts[backgrounds][index]["image"]
        alive = np.flatnonzero(stands)
        for start in range(0, len(alive), batch_size):
            chosen = alive[start : start + batch_size]
            padded = split_batch(np.resize(chosen, batch_size))  # one shape, one compilation
            right = _correct_pasted(model, images, masks, labels, padded, background)
            right = np.asarray(right)[: len(chosen)]
            require_finite("the model's logits on pasted objects", chosen, right)
            stands[chosen] = right == 1
        if progress is not None:
            progress.advance(len(table))
    options = {"backgrounds": len(tried)}
    return [record("challenge_accuracy", metrics.accuracy(stands), options=options)]


@jax.jit
def _correct_pasted(model, images, masks, labels, chosen, background):
    """Return `correct` [m] on the chosen objects pasted on one background, bg (1 - m) + m fg."""
    mask = to_unit(masks[chosen])
    pasted = to_unit(background) * (1 - mask) + to_unit(images[chosen]) * mask
    return correct(model.logits(pasted), labels[chosen])
