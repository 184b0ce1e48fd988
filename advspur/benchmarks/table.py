"""The five benchmarks of AutoAttack: which images of which data, and the models' heads.

Each is what BENCHMARKS holds: `autoattack.evaluate` and `num_passes` with a data set and defaults.
"""

import functools
import types

import jax

from advspur._checks import require
from advspur.benchmarks import cifar10, cifar_color_shift, imagenet, rival10, spurious_shapes
from advspur.benchmarks.autoattack import Data, evaluate, num_passes
from advspur.benchmarks.image_lists import evenly, first, listed
from advspur.data.label_maps import NUM_IMAGENET_CLASSES, RIVAL10
from advspur.data.layouts import load_options, with_defaults
from advspur.data.spurious_shapes import SHAPES
from advspur.data.spurious_shapes import spurious_shapes as draw_shapes


def evaluate_rival10(
    data,
    classifier,
    data_dir,
    *,
    batch_size,
    key,
    progress=None,
    cache_dir=None,
    learning_rate=1e-5,
    weight_decay=1e-4,
    num_epochs=10,
    **options,
):
    """`evaluate` of a model with the head for ten classes that benchmark "rival10" gives it."""
    reading = load_options(data.load, options)
    head_key, attack_key = jax.random.split(key)
    running = {"batch_size": batch_size, "progress": progress, "cache_dir": cache_dir}
    classifier = rival10.with_probe(
        classifier,
        data.load(data_dir, **reading)["train"],
        transform=reading.get("transform", "resize"),
        key=head_key,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        num_epochs=num_epochs,
        **running,
    )
    return evaluate(data, classifier, data_dir, key=attack_key, **running, **options)


def num_passes_rival10(data, data_dir, **options):
    """`num_passes`, and those for the features that the head is fitted to."""
    rival10.check_options(with_defaults(rival10.evaluate, options))
    train = data.load(data_dir, **load_options(data.load, options))["train"]
    return len(train) + num_passes(data, data_dir, **options)


def load_shapes(data_dir=None, *, num_images=500, shapes=None):
    """{"test": Table}, drawn from the seed in `shapes`."""
    return {"test": draw_shapes("test", num_examples=num_images, **dict(shapes or {}))}


def _imagenet_images(parts, num_images, image_list):
    table = parts["val"]
    if "path" not in table.columns:
        require(not image_list, "image_list needs ImageNet as val/<wnid>/*.JPEG: TFDS has no names")
        return evenly(table, "tfds validation", num_images)  # in another order
    if not image_list:
        return evenly(table, "val", num_images)
    names = [f"{path.parent.name}/{path.name}" for path in table.columns["path"]]
    return listed(table, names, image_list)


def _rival10_images(parts, num_images, image_list):
    if not image_list:
        return evenly(parts["test"], "test", num_images)
    names = [path.name for path in parts["test"].columns["path"]]
    return listed(parts["test"], names, image_list)


def _first_images(parts, num_images, image_list):
    require(not image_list, "image_list: the images of this data set have no file names")
    return first(parts["test"], "test", num_images)


def _benchmark(module, data, *, dataset="", **options):
    """What BENCHMARKS holds; folders, sizes and classes are those of `module`."""
    with_head = module is rival10
    passes, measure = (
        (num_passes_rival10, evaluate_rival10) if with_head else (num_passes, evaluate)
    )
    return types.SimpleNamespace(
        NUM_CLASSES=module.NUM_CLASSES,
        DIRECTORIES=module.DIRECTORIES,
        SIZES=getattr(module, "SIZES", {}),
        DATASET=dataset,
        OPTIONS=options,
        load=data.load,
        num_passes=functools.partial(passes, data, **options),
        evaluate=functools.partial(measure, data, **options),
    )


AUTOATTACK = {
    "autoattack_imagenet": _benchmark(
        imagenet,
        Data(imagenet.load, _imagenet_images, NUM_IMAGENET_CLASSES),
        num_images=5000,
        image_list="",
        linf_epsilons=(4 / 255,),
    ),
    "autoattack_cifar10": _benchmark(
        cifar10,
        Data(cifar10.load, _first_images, 10),
        dataset="cifar10",
        num_images=1000,
        linf_epsilons=(8 / 255,),
        l2_epsilons=(0.5,),
        l1_epsilons=(12.0,),
    ),
    "autoattack_cifar_color_shift": _benchmark(
        cifar_color_shift,
        Data(cifar_color_shift.load, _first_images, 10),
        dataset="cifar10",
        num_images=1000,
        linf_epsilons=(0.25 / 255, 0.5 / 255, 0.75 / 255, 1 / 255),
        l2_epsilons=(0.05, 0.1, 0.15, 0.2, 0.25),
    ),
    "autoattack_rival10": _benchmark(
        rival10,
        Data(rival10.load, _rival10_images, len(RIVAL10)),
        num_images=1000,
        image_list="",
        linf_epsilons=(4 / 255,),
    ),
    "autoattack_spurious_shapes": _benchmark(
        spurious_shapes,
        Data(load_shapes, _first_images, len(SHAPES)),
        num_images=500,
        l2_epsilons=(0.25,),
        linf_epsilons=(2 / 255,),
    ),
}
