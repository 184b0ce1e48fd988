"""ImageNet's class order, and its maps to the classes of ImageNet-9, ObjectNet and RIVAL10.

A map is an array with the class of each of the 1000 ImageNet indices, or -1.
"""

import functools
from importlib import resources

import numpy as np

NUM_IMAGENET_CLASSES = 1000

# RIVAL10 (Moayeri et al., CVPR 2022): classes in label order (not CIFAR-10's), two wnids each.
RIVAL10 = {
    "truck": ("n03796401", "n04467665"),
    "car": ("n02814533", "n03100240"),
    "plane": ("n02690373", "n04552348"),
    "ship": ("n03673027", "n03095699"),
    "cat": ("n02123394", "n02124075"),
    "dog": ("n02099712", "n02099601"),
    "equine": ("n02389026", "n02391049"),
    "deer": ("n02423022", "n02422699"),
    "frog": ("n01644900", "n01644373"),
    "bird": ("n01531178", "n01532829"),
}


@functools.cache
def _lines(name):
    return tuple((resources.files("advspur.data") / f"{name}.txt").read_text().splitlines())


def imagenet_wnids():
    """Return the 1000 wnids in the order of the model outputs (ascending)."""
    return _lines("imagenet_wnids")


def imagenet_names():
    """Return the 1000 short English names, all different, in the order of the model outputs."""
    return _lines("imagenet_names")


# Backgrounds challenge (Xiao et al., ICLR 2021): superclass directories in label order, and the
# ImageNet indices that belong to each. 171, 172 (two dogs) and 281-285 (cats) are left out.
IMAGENET9 = dict(line.split(": ") for line in _lines("imagenet9_classes"))

# ObjectNet (Barbu et al., NeurIPS 2019): the image folders of the 113 classes that overlap ImageNet
# and the ImageNet indices that are correct for each, 125 in all.
OBJECTNET = {
    folder: tuple(map(int, indices))
    for folder, *indices in map(str.split, _lines("objectnet_classes"))
}


def imagenet9_map():
    """Return [1000], the superclass of each ImageNet index."""
    return _index_map(
        [i for part in ranges.split() for i in _span(part)] for ranges in IMAGENET9.values()
    )


def objectnet_map():
    """Return [1000], the ObjectNet class (position in OBJECTNET) of each ImageNet index."""
    return _index_map(OBJECTNET.values())


# Subsets of classes whose accuracy is measured separately: [1000] bool.
SUBSETS = {"objectnet": lambda: objectnet_map() >= 0}


def rival10_labels():
    """Return {wnid: RIVAL10 label}."""
    return {wnid: label for label, wnids in enumerate(RIVAL10.values()) for wnid in wnids}


def _span(part):
    first, _, last = part.partition("-")
    return range(int(first), int(last or first) + 1)


def _index_map(groups):
    classes = np.full(NUM_IMAGENET_CLASSES, -1)
    for group, indices in enumerate(groups):
        classes[list(indices)] = group
    return classes
