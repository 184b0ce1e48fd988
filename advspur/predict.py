"""Passes over a data set: every example is counted exactly once, whatever the batch size.

A pass turns a model and a Table into outcomes of single examples, from which records are computed.
Outcomes can be kept in a folder: then an interrupted evaluation resumes at the pass it was in, and
several measures share one pass. Models with the same `forward` share one compilation.
"""

import hashlib
import io
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from advspur import __version__
from advspur._checks import check_count, require, require_finite
from advspur._devices import round_up_to_devices, split_batch
from advspur._files import write_whole
from advspur.data.batches import eval_batches
from advspur.data.transforms import to_unit
from advspur.models.classifier import ClassMap, LinearHead, base_of, check_is_model, pool

CHECKSUM = 32  # bytes


def for_each_example(function, table, *, batch_size, progress=None, passes=1):
    """Return {name: array [n, ...]}, the results of `function` for all examples, in order.

    Args:
      function: (Batch on the devices, numbers of its examples [batch_size] in the data set) ->
        {name: array [batch_size, ...]}.
      batch_size: images per call, rounded up to a multiple of the number of devices.
      progress: advanced by the number of images times `passes`.
    Raises: InputError if results are not finite, with their number and the first image.
    """
    check_count("batch_size", batch_size)
    batch_size = round_up_to_devices(batch_size)
    require(len(table) > 0, f"{table!r} contains no examples")
    results, last = [], None
    batches = eval_batches(table, batch_size=batch_size, image_size=table.image_size)

    def fetch(result, rows):
        result = jax.tree.map(lambda x: x[: len(rows)], jax.device_get(result))
        _check_outcomes(result, rows, table)
        results.append(result)

    for start, batch in enumerate(batches):
        rows = start * batch_size + np.arange(batch_size)
        numbers = table.index[np.minimum(rows, len(table) - 1)]
        result = function(*split_batch((batch, numbers)))
        if last is not None:  # fetch one batch late, so that the devices are never idle
            fetch(*last)
        last = result, rows[batch.valid]
        if progress is not None:
            progress.advance(len(last[1]) * passes)
    fetch(*last)
    return jax.tree.map(lambda *parts: np.concatenate(parts), *results)


def outcomes(function, classifier, table, about, *, cache_dir=None, **running):
    """Return `for_each_example`, read from `cache_dir` if an earlier call kept it there.

    Args:
      classifier: the one that `function` calls; without a digest, its results are not kept.
      about: what `function` measures, JSON; the file is named by it and the digests of model and
        data.
      cache_dir: a folder; None: keep nothing.
      running: batch_size, progress and passes of `for_each_example`.
    """
    check_is_model(classifier)
    if cache_dir is None or classifier.digest is None:
        return for_each_example(function, table, **running)
    identity = [about, classifier.digest, table.digest, __version__]
    name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
    path = Path(cache_dir) / f"{name}.npz"
    kept = _read(path)
    if kept is None:
        kept = for_each_example(function, table, **running)
        content = io.BytesIO()
        np.savez(content, **kept)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content.getvalue() + _checksum(content.getvalue()))
    elif running.get("progress") is not None:
        running["progress"].skip(len(table) * running.get("passes", 1))
    return kept


@jax.jit
def logits(classifier, images):
    """Return [n, k] for uint8 images."""
    return classifier.logits(to_unit(images))


@jax.jit
def features(classifier, images):
    """Return [n, d], the input of the last layer for uint8 images."""
    return classifier.features(to_unit(images))


def correct(logits, labels):
    """Return [n]: 1 if the largest logit is the label's, else 0; NaN if a logit is not finite."""
    is_right = (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
    return jnp.where(jnp.all(jnp.isfinite(logits), axis=-1), is_right, jnp.nan)


@jax.jit
def correct_clean(classifier, images, labels):
    """Return `correct` [n] for uint8 images."""
    return correct(classifier.logits(to_unit(images)), labels)


def features_on(classifier, table, **running):
    """Return {"features" [n, d], "label" [n]} of a Table; `running`: as in `outcomes`."""
    base = base_of(classifier)

    def function(batch, _):
        return {"features": features(base, batch.image), "label": batch.label}

    return outcomes(function, base, table, "features", **running)


def correct_on(classifier, table, **running):
    """Return {"correct" [n], "label" [n]}: 1 for each right prediction on a Table, else 0.

    Heads and class maps are applied to one pass of the network below them, which they share.
    """
    base, forward, params = base_of(classifier), classifier.forward, classifier.params

    def clean(batch, _):
        right = correct_clean(classifier, batch.image, batch.label)
        return {"correct": right, "label": batch.label}

    def whole(batch, _):
        return {"logits": logits(base, batch.image), "label": batch.label}

    if isinstance(forward, LinearHead):
        kept = features_on(base, table, **running)
        with np.errstate(invalid="ignore", over="ignore"):  # checked below
            values = kept["features"] @ np.asarray(params["kernel"]) + np.asarray(params["bias"])
    elif isinstance(forward, ClassMap):
        kept = outcomes(whole, base, table, "logits", **running)
        groups, number = params["groups"], forward.num_groups
        values = pool(kept["logits"], groups, number, with_rest=forward.with_rest)
    else:
        return outcomes(clean, classifier, table, "correct", **running)
    right = np.asarray(correct(values, kept["label"]))
    _check_outcomes(right, np.arange(len(right)), table)
    return {"correct": right, "label": kept["label"]}


def _check_outcomes(outcomes, rows, table):
    """Raise InputError if outcomes of these rows of a table are not finite."""
    leaves = [x for x in jax.tree.leaves(outcomes) if jnp.issubdtype(x.dtype, jnp.floating)]
    paths = table.columns.get("path")
    name = str if paths is None else lambda row: f"{row} ({paths[row]})"
    what, images = "the model's logits, features or gradients", "images of a batch"
    require_finite(what, rows, *leaves, images=images, name=name)


def _read(path):
    """Return the kept {name: array}, or None if the file is missing or damaged."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    if _checksum(content[:-CHECKSUM]) != content[-CHECKSUM:]:
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as kept:
        return dict(kept)


def _checksum(content):
    """Return the end of a kept file: zip does not detect every flipped bit of its headers."""
    return hashlib.sha256(content).digest()
