"""Heads that need no fitting: the model's classes as they are, or joined to the data's.

A head is a function (model, parts, *, key, ...) -> ([(what records say of it, model with head)],
the key that is left for the measures); the first of several is the headline.
"""

from advspur._checks import require
from advspur.data import label_maps
from advspur.data.label_maps import IMAGENET9, NUM_IMAGENET_CLASSES, OBJECTNET
from advspur.models import with_class_map


def as_it_is(model, parts, *, key, **running):
    """The model's own classes, which must be as many as the data's."""
    (needed,) = {table.num_classes for table in parts.values()}
    number = model.num_classes
    require(number == needed, f"the model has {number} classes; this data set has {needed}")
    return [({}, model)], key


def superclasses(model, parts, *, key, mapped_only=False, **running):
    """ImageNet-9's: a prediction counts as the superclass of its class; models with nine as are.

    `mapped_only`: among the 370 classes that have one; officially another class is wrong.
    """
    if model.num_classes != len(IMAGENET9):
        _require_imagenet(model)
        groups, rest = label_maps.imagenet9_map(), not mapped_only
        model = with_class_map(model, groups, len(IMAGENET9), with_rest=rest)
    return [({}, model)], key


def objectnet_scorings(model, parts, *, key, **running):
    """The prediction is that among all 1000 classes ("full", the headline: one outside of the
    overlap is wrong), or that among the 125 overlapping ones ("subset")."""
    _require_imagenet(model)
    groups = label_maps.objectnet_map(), len(OBJECTNET)
    return [
        ({"scoring": name}, with_class_map(model, *groups, with_rest=rest))
        for name, rest in (("full", True), ("subset", False))
    ], key


def _require_imagenet(model):
    number, needed = model.num_classes, NUM_IMAGENET_CLASSES
    fault = f"the model has {number} classes; ImageNet's {needed} are needed"
    require(number == needed, fault)
