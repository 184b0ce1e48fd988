"""Features and outcomes of a data set under a model, computed once and kept on disk."""

import hashlib
import io
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from advspur import __version__
from advspur._devices import together
from advspur._files import write_whole
from advspur.benchmarks.predict import correct_on, features, for_each_example
from advspur.data.layouts import content_digest
from advspur.data.sources import readable
from advspur.models import tree_digest


def cached_features(classifier, table, transform, *, cache_dir, batch_size, progress=None):
    """[n, d] features of a Table's images, from `cache_dir` where they lie there already.

    The file's name is a digest of all they depend on: the bytes of the image files, the transform,
    the weights (without the last layer), the network and its normalisation.

    Args:
      transform: text that names the transform of the images.
      cache_dir: None: nothing is kept.
    """

    def function(batch, _):
        return features(classifier, batch.image)

    def digest():
        variables = dict(classifier.variables)
        variables["params"] = {k: v for k, v in variables["params"].items() if k != "fc"}
        network = classifier.network.clone(num_classes=2)  # the last layer does not matter
        about = repr((network, classifier.mean, classifier.std))
        return tree_digest(variables), content_digest(table), transform, about

    return _cached(
        lambda: for_each_example(function, table, batch_size=batch_size, progress=progress),
        digest,
        len(table),
        cache_dir=cache_dir,
        suffix="features",
        progress=progress,
    )


def cached_correct(classifier, table, transform, *, root, cache_dir, progress=None, **running):
    """`correct_on` a Table of image files below `root`, kept on disk.

    A killed evaluation of many tables resumes at the table it was in. The file's name is a digest
    of the model, the transform, and the names, sizes, times and labels of the image files.
    """

    def digest():
        files = []
        for path, label in zip(table.columns["path"], table.columns["label"], strict=True):
            with readable(file := Path(root, path)):
                about = file.stat()
            files.append(f"{path} {about.st_size} {about.st_mtime_ns} {label}")
        model = tree_digest(classifier), str(jax.tree.structure(classifier))
        return *model, transform, str(root), *files

    return _cached(
        lambda: correct_on(classifier, table, progress=progress, **running),
        digest,
        len(table),
        cache_dir=cache_dir,
        suffix="correct",
        progress=progress,
    )


def _cached(compute, digest, count, *, cache_dir, suffix, progress):
    """compute(), an array of `count` rows, from `cache_dir` where it lies under its digest()."""
    if cache_dir is None:
        return compute()
    with together():
        text = "\n".join([*digest(), __version__])
    name = hashlib.sha256(text.encode()).hexdigest()[:32]
    path = Path(cache_dir) / f"{name}.{suffix}"
    kept = _read(path, count)
    if jax.process_count() > 1:  # all read or all compute: computing takes every process
        found = multihost_utils.process_allgather(np.array(kept is not None))
        kept = kept if found.all() else None
    if kept is not None:
        if progress is not None:
            progress.skip(count)
        return kept
    made = compute()
    if jax.process_index() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        np.save(content, made)
        write_whole(path, hashlib.sha256(content.getvalue()).digest() + content.getvalue())
    return made


def _read(path, count):
    """The kept array, or None where there is none or the file is damaged."""
    if not path.is_file():
        return None
    content = path.read_bytes()
    if hashlib.sha256(content[32:]).digest() != content[:32]:
        return None
    kept = np.load(io.BytesIO(content[32:]), allow_pickle=False)
    return kept if len(kept) == count else None
