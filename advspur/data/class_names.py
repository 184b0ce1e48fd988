"""Which class of a model is which class of the data: by number, by name, or by ImageNet's wnid.

>>> class_map(("cat", "dog"), ("dog", "cat"))[0].tolist()
[1, 0]
>>> class_map(("n01443537_goldfish", "tench"), 1000)[0][:3].tolist()
[1, 0, -1]
"""

import difflib
import re
from collections import Counter

import numpy as np

from advspur._checks import require
from advspur.data.label_maps import NUM_IMAGENET_CLASSES, imagenet_names, imagenet_wnids

WNID = re.compile(r"n\d{8}(?![^\W_])")  # also where a name follows: n01443537_goldfish
SHOWN = 10  # pairs, or names, of a line


def class_map(data, model):
    """The data's class for each class of a model, and a line that says how it was found.

    Names are alike whatever their case, and with "_" or "-" for spaces; a wnid is ImageNet's
    English name. Where one side has no names (or numbers for names), equally many classes are taken
    in their order.

    Args:
      data: names of the data's classes, in the order of the labels.
      model: names of the model's, or their number where it has none: 1000 are ImageNet's.
    Returns: ([classes of the model] int, -1 where the data lack the class; the line).
    Raises: InputError naming the classes of the data that the model lacks.
    """
    is_imagenet = model == NUM_IMAGENET_CLASSES
    if _are_numbers(data) or (not is_imagenet and (isinstance(model, int) or _are_numbers(model))):
        return _by_number(data, range(model) if isinstance(model, int) else model)
    names = imagenet_names() if is_imagenet else model
    keys, wanted = [_key(name) for name in names], [_key(name) for name in data]
    found = {key: label for label, key in enumerate(wanted)}
    counts, known = Counter(wanted), set(keys)
    twice = [name for name, key in zip(data, wanted, strict=True) if counts[key] > 1]
    require(not twice, f"the data's classes {_listed(twice)} are one: give them different names")
    lacking = [name for name, key in zip(data, wanted, strict=True) if key not in known]
    near = difflib.get_close_matches(_key(lacking[0]), keys, 2, 0.5) if lacking else ()
    require(
        not lacking,
        f"{len(lacking)} of the data's {len(data)} classes are none of the "
        f"{'1000 of ImageNet' if is_imagenet else f'{len(names)} of the model'}: "
        f"{_listed(lacking, len(lacking))}"
        f"{f' (near {lacking[0]!r}: {_listed(near)})' if near else ''}; rename them, or leave "
        "them out",
    )
    classes = np.array([found.get(key, -1) for key in keys])
    return classes, _line(classes, data, names)


def _by_number(data, model):
    sizes = f"the data have {len(data)} classes ({_listed(data)}), the model {len(model)}"
    advice = "name those of both, or give num_classes where labels are the model's own numbers"
    fault = f"{sizes}, and without names on both sides nothing says which is which: {advice}"
    require(len(data) == len(model), fault)
    names = [str(name) for name in (model if _are_numbers(data) else data)]
    pairs = [f"{i} {name}" for i, name in enumerate(names) if str(i) != name]
    text = "classes: by number, the data's class i is the model's output i"
    return np.arange(len(data)), f"{text}{': ' * bool(pairs)}{_listed(pairs)}"


def _line(classes, data, names):
    """What was mapped, in words."""
    if np.array_equal(classes, np.arange(len(data))):
        return f"classes: by name, the model's {len(data)} in the same order"
    outputs = [i for i in np.argsort(classes, kind="stable") if classes[i] >= 0]
    pairs = [f"{data[classes[i]]} = output {i}" for i in outputs[:SHOWN]]
    pairs += ["..."] * (len(outputs) > SHOWN)
    others = np.sum(classes < 0)
    rest = f"; the model's other {others} are no class of the data" if others else ""
    by = "by wnid" if all(map(WNID.match, data)) else "by name"
    some = f"{len(outputs)} of the model's {len(names)}"
    which = some if others else "the model's in another order"
    return f"classes: {by}, {which}: {', '.join(pairs)}{rest}"


def _key(name):
    """What is compared of a name."""
    wnid = WNID.match(name.strip())
    if wnid and wnid[0] in imagenet_wnids():
        name = imagenet_names()[imagenet_wnids().index(wnid[0])]
    return re.sub(r"[\s_-]+", " ", name.casefold()).strip()


def _are_numbers(names):
    return all(name.isdigit() for name in names)


def _listed(names, count=SHOWN):
    return ", ".join(names[:count]) + ", ..." * (len(names) > count)
