"""The published ImageNet models that the paper evaluates: robust-models-transfer's ResNets.

ResNet-18 and ResNet-50, standard and adversarially trained in l2 and linf (Salman et al. 2020). The
release has exactly five linf budgets for each backbone; the paper names only 5 of its nine l2
budgets, so which five it used is our choice (`suite`).

>>> [m.name for m in suite(l2_epsilons=(3, 5))][:4]
['resnet18_l2_eps0', 'resnet18_l2_eps3', 'resnet18_l2_eps5', 'resnet18_linf_eps0.5']
"""

import math
import re
from typing import NamedTuple

from advspur._checks import require

PUBLISHED_AT = "Hugging Face, repository madrylab/robust-imagenet-models (MIT licence)"
L2_EPSILONS = (0.25, 0.5, 1.0, 3.0, 5.0)
LINF_EPSILONS = (0.5, 1.0, 2.0, 4.0, 8.0)  # of 255
RELEASED = {2.0: (0, 0.01, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 3, 5), math.inf: LINF_EPSILONS}
# Top-1 accuracy in percent on the 50,000 validation images, from the release's README.
CLEAN_ACCURACY = {
    ("resnet18", 2.0): (69.79, 69.90, 69.24, 69.15, 68.77, 67.43, 65.49, 62.32, 53.12, 45.59),
    ("resnet50", 2.0): (75.80, 75.68, 75.76, 75.59, 74.78, 74.14, 73.16, 70.43, 62.83, 56.13),
    ("resnet18", math.inf): (66.13, 63.46, 59.63, 52.49, 42.11),
    ("resnet50", math.inf): (73.73, 72.05, 69.10, 63.86, 54.53),
}
_NAME = re.compile(r"(resnet18|resnet50|wide_resnet50_[24])_(l2|linf)_eps(\d{1,3}(?:\.\d{1,3})?)")


class PublishedModel(NamedTuple):
    """A model of the release."""

    name: str  # of its file in the release, without the extension
    arch: str  # key of `build_network`
    train_p: float  # norm of the training attack
    train_epsilon: float  # its budget in [0, 1] pixel units (8/255 for "linf_eps8.0")
    clean_accuracy: float | None  # published top-1 accuracy as a fraction, if there is one
    files: tuple  # the file names it may have


def published_model(name):
    """Return the PublishedModel of this name, or None ("resnet50_linf_eps4" or "..._eps4.0").

    The release writes whole l2 budgets without a decimal point and linf budgets with one; both
    forms are accepted, in names and in file names.
    """
    match = _NAME.fullmatch(name)
    if not match:
        return None
    arch, norm, number = match.groups()
    p, budget = {"l2": 2.0, "linf": math.inf}[norm], float(number)
    forms = [f"{budget:g}", f"{budget:.1f}"] if budget == int(budget) else [f"{budget:g}"]
    if p == math.inf:
        forms.reverse()
    percent = dict(zip(RELEASED[p], CLEAN_ACCURACY.get((arch, p), ()), strict=False)).get(budget)
    accuracy = None if percent is None else percent / 100
    names = [f"{arch}_{norm}_eps{form}" for form in forms]
    epsilon, files = budget if p == 2 else budget / 255, tuple(f"{n}.ckpt" for n in names)
    return PublishedModel(names[0], arch, p, epsilon, accuracy, files)


def suite(*, l2_epsilons=L2_EPSILONS):
    """The paper's models: for each backbone the standard one, l2 budgets, the five linf budgets.

    A tuple of PublishedModel, 22 by default. `l2_epsilons` are budgets of RELEASED; the paper's
    main text names only 5, the default is the five largest.
    """
    known = RELEASED[2.0][1:]
    allowed = ", ".join(f"{e:g}" for e in known)
    for epsilon in l2_epsilons:
        require(epsilon in known, f"l2_epsilons has {epsilon}; the release has {allowed}")
    return tuple(
        published_model(f"{arch}_{norm}_eps{epsilon:g}")
        for arch in ("resnet18", "resnet50")
        for norm, epsilons in (("l2", (0, *l2_epsilons)), ("linf", LINF_EPSILONS))
        for epsilon in epsilons
    )


SUITE = suite()
