"""Figures of a suite in the layouts of the paper's Figures 1, 5, 6, 7, 8, and robustness."""

from itertools import product
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt

from advspur.intervals import NOTHING
from advspur.report import headlines as h
from advspur.report import panels
from advspur.report.color_shift import color_shift_figures
from advspur.report.panels import bars, by_accuracy, by_budget, by_model
from advspur.report.suite import (
    NORMS,
    STANDARD,
    UNKNOWN,
    budget_label,
    norm_label,
    options_label,
    span,
)

STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 160,
}
SNAPSHOT = (
    "Means over the n models of each kind, all architectures and budgets together. Error bars: the "
    "mean of their 95% intervals."
)
SHIFTS = (
    "Accuracy under a shift against ImageNet accuracy, one point per model. Lines: the ratio for "
    "the standard model of each architecture. ObjectNet is scored over all 1000 classes: a "
    "prediction outside its classes is wrong."
)
NOISE = (
    "Relative sensitivity to noise on the foreground or core; lower means more sensitive to noise "
    "on the background. Accuracies are averaged over noise levels before the formula is applied. "
    "Noise of equal standard deviation (linf) has more energy on the larger region, the "
    "background; noise of equal ℓ2 length does not."
)
GAPS = "Background gap: MIXED-SAME minus MIXED-RAND accuracy; relative: divided by MIXED-SAME."
GROUPS = (
    "Accuracy on images whose background agrees with the class (majority), on the others "
    "(minority), and the difference."
)
MASKS = (
    "Not in the paper. Relative sensitivity to attacks on one region only; lower means more "
    "sensitive to attacks on the background. Deep NFS: the share of the squared input gradient "
    "that is off the core."
)
ROBUSTNESS = "Accuracy under PGD at evaluation, the purpose of adversarial training."

ON_MASKS = "Attacks and gradients on masks: "
ATTACKED = h.SHAPES, "pgd_accuracy"
BOTH_GAPS = (h.BACKGROUND_GAP, h.RELATIVE_GAP)
SHAPES_SNAPSHOT = (h.SHAPES_CLEAN, h.SHAPES_GROUPS[1], *h.SHAPES_GAPS, h.SHAPES_NOISE[0])
PAPER_SNAPSHOT = (h.RFS, h.RCS, *BOTH_GAPS, h.GROUP_GAP, h.OBJECTNET_RATIO)
RATIOS = (h.IMAGENET_C_RATIO, h.OBJECTNET_RATIO)
FIGURES = (  # file name, title on the page, kind of panels, headlines, caption
    ("figure1_snapshot", "Figure 1: snapshot", bars, PAPER_SNAPSHOT, SNAPSHOT),
    ("figure5_shifts", "Figure 5: natural shifts", by_accuracy, RATIOS, SHIFTS),
    ("figure6_sensitivity", "Figure 6: sensitivity", by_budget, (h.RFS, h.RCS), NOISE),
    ("figure7_background_gap", "Figure 7: background gap", by_budget, BOTH_GAPS, GAPS),
    ("figure8_waterbirds", "Figure 8: Waterbirds", by_budget, h.BIRDS, GROUPS),
    ("snapshot", "Snapshot, as Figure 1", bars, SHAPES_SNAPSHOT, SNAPSHOT),
    ("sensitivity", "Sensitivity, as Figure 6", by_budget, h.SHAPES_NOISE, NOISE),
    ("background_gap", "Background gap, as Figure 7", by_budget, h.SHAPES_GAPS, GAPS),
    ("groups", "Groups, as Figure 8", by_budget, h.SHAPES_GROUPS, GROUPS),
    *((f"masks_{m[0].benchmark}", ON_MASKS + m[0].title, by_budget, m, MASKS) for m in h.MASKS),
)


def save_figures(figures, directory):
    """Save each (file name, title, figure, caption, ...) as PNG and PDF.

    Returns: [(title, path of the PNG, caption, ...)].
    """
    matplotlib.use("Agg")
    directory, saved = Path(directory), []
    directory.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(STYLE):
        for name, title, figure, *rest in figures:
            for suffix in ("pdf", "png"):
                figure.savefig(directory / f"{name}.{suffix}")
            plt.close(figure)
            saved.append((title, directory / f"{name}.png", *rest))
    return saved


def suite_figures(suite):
    """Yield (file name, title, figure, caption, labels of the headlines judged from it)."""
    has_budgets, has_unknown = bool(suite.norms()), bool(suite.unknown())
    for name, title, draw, shown, caption in (*FIGURES, *own_figures(suite)):
        if draw is by_budget and has_unknown and not has_budgets:
            draw = by_model
        has = suite.numbers if draw is by_model else suite.has
        recorded = list(filter(has, shown))
        # Standard models alone have nothing to compare with.
        if recorded and (has_budgets or has_unknown or draw in (bars, by_model)):
            text = " ".join([caption, *(_protocol(suite, m) for m in recorded)])
            labels = set() if draw is bars else {m.label for m in recorded}
            yield name, title, draw(suite, recorded), text, labels
    if any(key[1:] == ATTACKED for key in suite.records):
        yield "robustness", "Robustness", _robustness(suite), ROBUSTNESS, set()
    yield from color_shift_figures(suite)


def own_figures(suite):
    """Entries like those of FIGURES for the benchmarks that are not in the paper."""
    for index, (benchmark, chosen) in enumerate(h.own_headlines(suite).items(), start=1):
        title, groups = h.title_of(benchmark), h.headlines_of(suite, benchmark, "group_accuracy")
        yield f"own{index}_models", f"{title}: by model", by_model, chosen, "Headline numbers."
        yield f"own{index}_groups", f"{title}: by group", by_model, groups, "Accuracy by group."


def _protocol(suite, headline):
    """Describe how a number was measured: n and every set of options in its records."""
    found = [r for m in suite.models for r in suite.matching(headline, m.name)]
    size = f"n = {span((r.num_examples for r in found), 'd')}"
    readings = dict.fromkeys(options_label(r.options) for r in found)
    name = f"{headline.title} {headline.metric.replace('_', ' ')}"
    return f"{name}: {'; '.join([size, *filter(None, readings)])}."


def _robustness(suite):
    """One panel per attack norm: accuracy against the attack's budget, one line per model."""
    figure, axes = panels.grid(2, 4.6, 3.6, sharey=True)
    attacks = [r.options for key, rs in suite.records.items() if key[1:] == ATTACKED for r in rs]
    under, archs = h.SHAPES_CLEAN._replace(metric="pgd_accuracy"), suite.archs()
    for axis, p_option, attack_p in zip(axes, (2.0, "inf"), NORMS, strict=True):
        epsilons = sorted({o["epsilon"] for o in attacks if o["p"] == p_option} - {0})
        of_norm = h.AS_IT_IS | {"p": p_option}
        attacked = [under._replace(options=of_norm | {"epsilon": e}) for e in epsilons]
        shown = [h.SHAPES_CLEAN, *attacked]
        for arch, p in product(archs, (STANDARD, *suite.norms())):
            curves = [suite.curve(m, arch, p) for m in shown]
            for style, budget in enumerate(sorted(set().union(*curves))):
                label = f"{norm_label(p)} {budget_label(p, budget)}" if p else "standard"
                label = label if len(archs) == 1 else f"{arch} {label}"
                values = [c.get(budget, NOTHING).value for c in curves]
                _line(axis, values, p, style, "os^D"[archs.index(arch) % 4], label)
        for style, name in enumerate(panels.unknown_names(suite, attacked)):
            _line(axis, [suite.estimate(m, name).value for m in shown], UNKNOWN, style, "P", name)
        labels = [budget_label(attack_p, e) for e in epsilons]
        axis.set_xticks(range(len(shown)), ["clean", *labels])
        axis.set_xlabel(f"{norm_label(attack_p)} budget of the PGD attack")
    axes[0].set_ylabel("accuracy (%)")
    if axes[1].lines:
        handles = axes[1].get_legend_handles_labels()
        figure.legend(*handles, loc="outside right upper", fontsize=8, handlelength=2.6)
    return figure


def _line(axis, values, p, style, marker, label):
    look = {"color": panels.COLORS[p], "linestyle": ("-", "--", ":")[style % 3], "markersize": 3}
    axis.plot([panels.PERCENT * v for v in values], marker=marker, label=label, **look)
