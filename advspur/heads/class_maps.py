"""Heads that need no fitting: the model's classes as they are, or joined to the data's.

A head is a function (model, parts, *, key, ...) -> ([(fields of the records, model with head)],
the key for the measures). The first model is the headline.
"""

from advspur._checks import require
from advspur.data import label_maps
from advspur.data.label_maps import IMAGENET9, NUM_IMAGENET_CLASSES, OBJECTNET
from advspur.models import with_class_map


def as_it_is(model, parts, *, key, **running):
    """Return the model as the only head; it must have as many classes as the data."""
    (num_classes,) = {table.num_classes for table in parts.values()}
    fault = f"the model has {model.num_classes} classes; this data set has {num_classes}"
    require(model.num_classes == num_classes, fault)
    return [({}, model)], key


def superclasses(model, parts, *, key, mapped_only=False, **running):
    """Predict ImageNet-9's superclasses: that of the predicted class, or the model's own nine.

    `mapped_only`: predict among the 370 classes that have a superclass. Officially the prediction
    is among all 1000, and one without a superclass is wrong.
    """
    if model.num_classes != len(IMAGENET9):
        _require_imagenet(model)
        groups = label_maps.imagenet9_map()
        model = with_class_map(model, groups, len(IMAGENET9), with_rest=not mapped_only)
    return [({}, model)], key


def objectnet_scorings(model, parts, *, key, **running):
    """Predict among all 1000 classes ("full", the headline) or the 125 overlapping ("subset").

    In "full", a prediction outside of the overlap is wrong.
    """
    _require_imagenet(model)
    groups = label_maps.objectnet_map(), len(OBJECTNET)
    return [
        ({"scoring": name}, with_class_map(model, *groups, with_rest=rest))
        for name, rest in (("full", True), ("subset", False))
    ], key


def _require_imagenet(model):
    number, needed = model.num_classes, NUM_IMAGENET_CLASSES
    require(number == needed, f"the model has {number} classes; ImageNet's {needed} are needed")
