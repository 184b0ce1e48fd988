"""Match the classes of a model to those of the data: by number, name, or ImageNet's wnid.

>>> class_map(("cat", "dog"), ("dog", "cat"))[0].tolist()
[1, 0]
>>> class_map(("n01443537_goldfish", "tench"), 1000)[0][:3].tolist()
[1, 0, -1]
"""

import difflib
import re
from collections import Counter

import numpy as np

from advspur._checks import InputError, require
from advspur.data.label_maps import NUM_IMAGENET_CLASSES, imagenet_names, imagenet_wnids

WNID = re.compile(r"n\d{8}(?![^\W_])")  # a name may follow: n01443537_goldfish
SHOWN = 10  # pairs, or names, in a line


def class_map(data, model):
    """Return the data's class for each class of a model, and a line that describes the map.

    Names are compared without case, "_" and "-" count as spaces, and a wnid stands for ImageNet's
    English name. If one side has no names (or only numbers), both must have equally many classes,
    which are matched in order.

    Args:
      data: names of the data's classes, in the order of the labels.
      model: names of the model's classes, or their number if it has no names (1000: ImageNet's).
    Returns: ([classes of the model] int, -1 for a class that the data lack; the line).
    Raises: InputError naming the classes of the data that the model lacks.
    """
    is_imagenet = model == NUM_IMAGENET_CLASSES
    if _are_numbers(data) or (not is_imagenet and (isinstance(model, int) or _are_numbers(model))):
        return _by_number(data, range(model) if isinstance(model, int) else model)
    names = imagenet_names() if is_imagenet else model
    keys, data_keys = [_key(name) for name in names], [_key(name) for name in data]
    counts, known = Counter(data_keys), set(keys)
    twice = [name for name, key in zip(data, data_keys, strict=True) if counts[key] > 1]
    same = f"the data's classes {_listed(twice)} count as the same name"
    require(not twice, f"{same}: give them different names")
    if lacking := [name for name, key in zip(data, data_keys, strict=True) if key not in known]:
        near = difflib.get_close_matches(_key(lacking[0]), keys, 2, 0.5)
        raise InputError(
            f"{len(lacking)} of the data's {len(data)} classes are not among "
            f"{'ImageNet' if is_imagenet else 'the model'}'s {len(names)}: {', '.join(lacking)}"
            f"{f' (near {lacking[0]!r}: {_listed(near)})' if near else ''}; rename or remove them"
        )
    label_of = {key: label for label, key in enumerate(data_keys)}
    classes = np.array([label_of.get(key, -1) for key in keys])
    return classes, _line(classes, data, names)


def _by_number(data, model):
    sizes = f"the data have {len(data)} classes ({_listed(data)}), the model {len(model)}"
    advice = "name the classes of both, or give num_classes if labels are the model's numbers"
    fault = f"{sizes}, and they can be matched only by names: {advice}"
    require(len(data) == len(model), fault)
    names = [str(name) for name in (model if _are_numbers(data) else data)]
    pairs = [f"{i} {name}" for i, name in enumerate(names) if str(i) != name]
    text = "classes: by number, the data's class i is the model's output i"
    return np.arange(len(data)), f"{text}{': ' * bool(pairs)}{_listed(pairs)}"


def _line(classes, data, names):
    if np.array_equal(classes, np.arange(len(data))):
        return f"classes: by name, the model's {len(data)} in the same order"
    outputs = [i for i in np.argsort(classes, kind="stable") if classes[i] >= 0]
    pairs = [f"{data[classes[i]]} = output {i}" for i in outputs[:SHOWN]]
    pairs += ["..."] * (len(outputs) > SHOWN)
    others = np.sum(classes < 0)
    rest = f"; the data have none of the model's other {others}" if others else ""
    by = "by wnid" if all(map(WNID.match, data)) else "by name"
    some = f"{len(outputs)} of the model's {len(names)}"
    which = some if others else "the model's in another order"
    return f"classes: {by}, {which}: {', '.join(pairs)}{rest}"


def _key(name):
    """Return the form in which names are compared."""
    wnid = WNID.match(name.strip())
    if wnid and wnid[0] in imagenet_wnids():
        name = imagenet_names()[imagenet_wnids().index(wnid[0])]
    return re.sub(r"[\s_-]+", " ", name.casefold()).strip()


def _are_numbers(names):
    return all(name.isdigit() for name in names)


def _listed(names):
    return ", ".join(names[:SHOWN]) + ", ..." * (len(names) > SHOWN)
