"""Group-robust heads, with their hyper-parameters chosen on validation data.

Each head has a grid; the first fit with the highest score on `val` is kept. The rule says what the
score is: the accuracy of the worst group (which needs group labels of `val`), of the worst class,
or of all.
"""

import itertools
from typing import NamedTuple

import jax
import numpy as np

from advspur import metrics
from advspur._checks import check_choice, check_numbers, require
from advspur.heads import retrained, robust
from advspur.heads.linear import check_examples

HEADS = ("erm", "class_balanced", "group_balanced", "dfr", "group_dro", "jtt", "afr", "adversarial")
RULES = ("worst_group", "worst_class", "mean")
BALANCING = ("weights", "subsample")
# Options of a row's head; each head's records say which hyper-parameters it was fitted with.
OPTIONS = frozenset({"heads", "selected_by", "balancing", "weight_decays"})
WEIGHT_DECAYS = (1e-4, 1e-3, 1e-2, 1e-1)
# C of group DRO: the paper's grid, which goes with strong penalties only.
ADJUSTMENTS, STRONG = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0), 1e-2
BUDGETS = (0.01, 0.03, 0.1, 0.3)  # shares of the features' RMS distance from their mean
STEPS, UP = (10, 30, 100), (20.0, 50.0, 100.0)  # T and lambda of JTT
NUM_DRAWS = 20  # of DFR
AFR_SHARE, AFR_SEED, AFR_DECAY = 0.2, 21, 1e-4  # the official split has one seed for all runs


class Examples(NamedTuple):
    """Features [n, d] with their labels and, if known, groups and minority."""

    features: np.ndarray
    labels: np.ndarray
    groups: np.ndarray | None = None  # [n] codes
    is_minority: np.ndarray | None = None  # [n] bool


class RobustHead(NamedTuple):
    """A head and how it was chosen."""

    kernel: np.ndarray  # [d, k]
    bias: np.ndarray  # [k]
    selected_by: str
    chosen: dict  # hyper-parameters and facts about the fit
    score: float  # on val


def check_heads(heads, selected_by, balancing, weight_decays):
    """Raise InputError for options that no head can be fitted with."""
    require(isinstance(heads, (tuple, list)), f"heads = {heads!r}: give a list of names")
    for name in heads:
        check_choice("heads", name, HEADS)
    check_choice("selected_by", selected_by, RULES)
    check_choice("balancing", balancing, BALANCING)
    check_numbers("weight_decays", weight_decays)
    are_positive = len(weight_decays) > 0 and min(weight_decays) > 0
    require(are_positive, f"weight_decays = {weight_decays}: give at least one, each > 0")


def fit_heads(
    train,
    val,
    heads,
    *,
    num_classes,
    seed=0,
    selected_by="worst_group",
    balancing="weights",
    weight_decays=WEIGHT_DECAYS,
):
    """Return {name: RobustHead} for some HEADS.

    Args:
      train, val: Examples.
      seed: of draws of rows.
      selected_by: one of RULES.
      balancing: for "class_balanced" and "group_balanced": "weights", or "subsample", one draw.
      weight_decays: the grid of all heads except "dfr" and "afr".
    """
    check_heads(heads, selected_by, balancing, weight_decays)
    train, val = _checked(train, "train", num_classes), _checked(val, "val", num_classes)
    widths = train.features.shape[1], val.features.shape[1]
    require(widths[0] == widths[1], f"features of train and val have widths {widths}")
    require_groups(heads, selected_by, {"train": train.groups, "val": val.groups})
    codes = {"worst_group": val.groups, "worst_class": val.labels, "mean": 0 * val.labels}
    codes = np.unique(codes[selected_by], return_inverse=True)[1]
    decays = [float(decay) for decay in weight_decays]
    fit = {"num_classes": num_classes}

    def weighted(weights, of_rows):
        """Fits for each row of weights [m, n] and each decay."""
        rows, of_fits = zip(*itertools.product(range(len(weights)), decays), strict=True)
        fits = robust.fit_weighted(
            train.features, train.labels, weights[list(rows)], of_fits, **fit
        )
        settings = [of_rows[i] | {"weight_decay": d} for i, d in zip(rows, of_fits, strict=True)]
        return zip(fits.kernel, fits.bias, settings, strict=True)

    def balanced(codes):
        if balancing == "weights":
            weights = robust.balanced_weights(codes)
        else:
            weights = robust.subsample_weights(codes, np.random.default_rng(seed))
        return weighted(weights[None], [{"balancing": balancing}])

    def adversarial():
        centred = train.features - train.features.mean(0)
        scale = float(np.sqrt(np.mean(np.sum(centred**2, axis=1))))
        settings = [{"budget": b, "weight_decay": d} for b, d in itertools.product(BUDGETS, decays)]
        grid = [a["weight_decay"] for a in settings], [a["budget"] * scale for a in settings]
        fits = robust.fit_adversarial(train.features, train.labels, *grid, **fit)
        return zip(fits.kernel, fits.bias, settings, strict=True)

    def group_dro():
        examples = train.features.astype(np.float64), train.labels, train.groups
        fits = []
        for decay in decays:  # one by one: the smaller a decay, the longer its fits take
            grid = [c for c in ADJUSTMENTS if c == 0 or decay >= STRONG]
            with jax.enable_x64(True):  # small differences between the groups' losses decide
                solved, _ = robust.fit_group_dro(*examples, [decay] * len(grid), grid, **fit)
            settings = [{"weight_decay": decay, "adjustment": c} for c in grid]
            fits += zip(solved.kernel, solved.bias, settings, strict=True)
        return fits

    def jtt():
        wrong = retrained.error_sets(train.features, train.labels, STEPS, **fit)
        sets = [(t, e) for t, e in zip(STEPS, wrong, strict=True) if e.any()]
        fault = f"jtt has no error set: after {min(STEPS)} steps ERM is right on all of train"
        require(sets, f"{fault}; leave jtt out of the heads")
        grid = list(itertools.product(sets, UP))
        weights = np.stack([retrained.jtt_weights(e, up) for (_, e), up in grid])
        settings = [{"steps": t, "up": up} | _error_facts(e, train) for (t, e), up in grid]
        return weighted(weights, settings)

    def afr():
        order = np.random.default_rng(AFR_SEED).permutation(len(train.labels))
        first, rest = np.split(order, [len(order) - round(AFR_SHARE * len(order))])
        require(len(rest), f"afr holds {AFR_SHARE:.0%} of train out: {len(order)} rows are too few")
        mean = np.full((1, len(first)), 1 / len(first))
        base = robust.fit_weighted(
            train.features[first], train.labels[first], mean, [AFR_DECAY], **fit
        )
        return retrained.fit_afr(
            (base.kernel[0], base.bias[0]),
            (train.features[rest], train.labels[rest]),
            (val.features, val.labels, codes),
            **fit,
        )

    def dfr():
        rng = np.random.default_rng(seed)
        rows, scored = retrained.halves(val.groups, rng)
        scaler = retrained.Scaler.of(val.features[rows])
        examples = val.features, val.labels
        kernels, biases, _ = retrained.fit_dfr(*examples, rows[None], retrained.CS, scaler, **fit)
        settings = [{"C": C} for C in retrained.CS]
        fits = zip(kernels[:, 0], biases[:, 0], settings, strict=True)
        _, _, best, score = _best(fits, val.features[scored], val.labels[scored], codes[scored])
        draws = robust.balanced_draws(val.groups, NUM_DRAWS, rng)
        scaler = retrained.Scaler.of(train.features)
        kernels, biases, _ = retrained.fit_dfr(*examples, draws, [best["C"]], scaler, **fit)
        settings = best | {"draws": NUM_DRAWS, "rows": draws.shape[1]}
        return [(kernels[0].mean(0), biases[0].mean(0), settings, score)]

    n = len(train.labels)
    fits = {
        "erm": lambda: weighted(np.full((1, n), 1 / n), [{}]),
        "class_balanced": lambda: balanced(train.labels),
        "group_balanced": lambda: balanced(train.groups),
        "dfr": dfr,
        "group_dro": group_dro,
        "jtt": jtt,
        "afr": afr,
        "adversarial": adversarial,
    }
    rule, fitted = f"val {selected_by.replace('_', ' ')}", {}
    for name in heads:
        kernel, bias, chosen, score = _best(fits[name](), val.features, val.labels, codes)
        kernel, bias = np.asarray(kernel, np.float32), np.asarray(bias, np.float32)
        fitted[name] = RobustHead(kernel, bias, rule, chosen, score)
    return fitted


def worst_accuracy(right, codes):
    """Return the least accuracy over the codes that occur."""
    known, index = np.unique(codes, return_inverse=True)
    return metrics.worst_group_accuracy(right, index, num_groups=len(known)).value


def require_groups(heads, selected_by, groups):
    """Raise InputError if {part: [n] or None} lacks groups that a head or the rule needs."""
    for name in heads:
        by_rule = selected_by == "worst_group" and name != "dfr"
        needs = ["val"] * (by_rule or name == "dfr")
        needs += ["train"] * (name in ("group_balanced", "group_dro"))
        advice = ", or selected_by = 'worst_class' or 'mean'" if by_rule else ""
        for part in needs:
            number = 0 if groups[part] is None else len(np.unique(groups[part]))
            text = f"head {name} needs several groups of {part}, which has {number or 'none'}"
            require(number > 1, f"{text}: choose other heads{advice}")
        if "val" in needs and groups["train"] is not None:
            lost = {*np.unique(groups["train"])} - {*np.unique(groups["val"])}
            text = f"val has no row of group {min(lost, default='')}, which train has: add some"
            require(not lost, text)


def _best(fits, features, labels, codes):
    """Return the first (kernel, bias, chosen, score) of highest score.

    A fit without a score gets its worst accuracy on the examples.
    """
    scored = []
    for kernel, bias, chosen, *score in fits:
        right = np.argmax(features @ kernel + bias, axis=1) == labels
        scored.append((kernel, bias, chosen, score[0] if score else worst_accuracy(right, codes)))
    return max(scored, key=lambda fit: fit[3])


def _error_facts(wrong, train):
    """Return the size of an error set and how well it agrees with the minority."""
    facts = {"error_set": int(wrong.sum())}
    if train.is_minority is not None and train.is_minority.any():
        both = np.sum(wrong & train.is_minority)
        facts["error_set_precision"] = round(float(both / wrong.sum()), 4)
        facts["error_set_recall"] = round(float(both / train.is_minority.sum()), 4)
    return facts


def _checked(examples, part, num_classes):
    features, labels = check_examples(examples.features, examples.labels, num_classes, part)
    for name in ("groups", "is_minority"):
        column = getattr(examples, name)
        fault = f"{name} of {part} has {np.shape(column)} entries for {len(labels)} rows"
        require(column is None or np.shape(column) == labels.shape, fault)
    return examples._replace(features=features.astype(np.float32), labels=labels)
