"""Figures of a suite in the layouts of the paper: snapshot bars, sensitivity, gaps.

A marker is hollow where the interval of its difference from the standard model covers 0.
"""

import functools
import math
from pathlib import Path

from advspur.report.suite import budget_label, difference, mean_estimate, norm_label, number

COLORS = {0.0: "#6b6b6b", 2.0: "#c8532b", math.inf: "#2b6cb0"}
PERCENT = 100


def draw_figures(suite, directory):
    """Draw every figure the suite has records for; return [(path of the PNG, caption)]."""
    drawings = {}
    for name, draw in FIGURES.items():
        if suite.norms() or draw in (_snapshot, _robustness):  # else nothing to draw against
            drawings[name] = functools.partial(draw, suite)
    return save_drawings(drawings, directory)


def save_drawings(drawings, directory):
    """Save {name: plt -> (figure, caption)} as PNG and PDF; return [(path of the PNG, caption)]."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    style = {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
        "savefig.dpi": 160,
    }
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    drawn = []
    with plt.rc_context(style):
        for name, draw in drawings.items():
            figure, caption = draw(plt)
            for suffix in ("pdf", "png"):
                figure.savefig(directory / f"{name}.{suffix}")
            plt.close(figure)
            drawn.append((directory / f"{name}.png", caption))
    return drawn


def _snapshot(suite, plt):
    panels = (
        ("accuracy", {"split": "test"}, "Clean accuracy (%)"),
        ("minority_accuracy", {}, "Minority accuracy (%)"),
        ("background_gap", {}, "Background gap (points)"),
        ("relative_background_gap", {}, "Relative background gap (%)"),
        ("relative_foreground_sensitivity", {"family": "linf"}, "RFS, equal deviation (%)"),
    )
    figure, axes = plt.subplots(1, len(panels), figsize=(2.35 * len(panels), 3.1))
    for axis, (metric, options, title) in zip(axes, panels, strict=True):
        bars = [("standard", COLORS[0.0], suite.mean(metric, 2.0, 0.0, **options))]
        for p in suite.norms():
            estimates = [suite.mean(metric, p, e, **options) for e in suite.budgets(p)]
            bars.append((norm_label(p) + " AT", COLORS[p], mean_estimate(estimates)))
        for x, (_, color, estimate) in enumerate(bars):
            axis.bar(x, PERCENT * estimate.value, color=color, width=0.7)
            _error_bar(axis, x, estimate, "black", marker="none")
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_xticks(range(len(bars)), [name for name, _, _ in bars])
        axis.set_title(title, fontsize=9.5)
        axis.grid(axis="x", visible=False)
    return figure, (
        "Snapshot, in the layout of the paper's Figure 1. Adversarially trained models are "
        "averaged over their budgets; bars show the mean of the 95% intervals."
    )


def _sensitivity(suite, plt):
    families = {"linf": "RFS (%)\nequal deviation", "l2": "RFS (%)\nequal length"}
    figure, axes = _panels(suite, plt, rows=2)
    for row, (family, label) in zip(axes, families.items(), strict=True):
        for axis, p in zip(row, suite.norms(), strict=True):
            _curve(axis, suite, "relative_foreground_sensitivity", p, family=family)
        row[0].set_ylabel(label)
    return figure, (
        "Relative foreground sensitivity against the training budget (layout of Figure 6); lower: "
        "relatively more sensitive to the background. Noise of equal standard deviation carries "
        "more energy on the larger region, the background; noise of equal l2 length does not. "
        "The band is the standard model's interval."
    )


def _gap(suite, plt):
    figure, axes = _panels(suite, plt, rows=2)
    rows = (("background_gap", "gap (points)"), ("relative_background_gap", "relative gap (%)"))
    for row, (metric, label) in zip(axes, rows, strict=True):
        for axis, p in zip(row, suite.norms(), strict=True):
            _curve(axis, suite, metric, p)
        row[0].set_ylabel(label)
    return figure, (
        "Background gap, MIXED-SAME minus MIXED-RAND accuracy, and as a share of MIXED-SAME "
        "(layout of Figure 7). The band is the standard model's interval."
    )


def _groups(suite, plt):
    figure, axes = _panels(suite, plt, rows=2)
    for axis, p in zip(axes[0], suite.norms(), strict=True):
        for metric, marker in (("majority_accuracy", "o"), ("minority_accuracy", "s")):
            label = metric.split("_")[0]
            _curve(axis, suite, metric, p, marker=marker, label=label, with_standard=True)
        if suite.of_seeds("majority_accuracy", p, suite.budgets(p)[0]):
            axis.legend(fontsize=8)
    for axis, p in zip(axes[1], suite.norms(), strict=True):
        _curve(axis, suite, "majority_minority_gap", p)
    axes[0][0].set_ylabel("accuracy (%)")
    axes[1][0].set_ylabel("gap (points)")
    return figure, (
        "Accuracy where the background agrees with the class (majority) and where it does not "
        "(minority), and their difference (layout of Figure 8)."
    )


def _robustness(suite, plt):
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.2), sharey=True)
    attacks = [r for r in suite.records if r.metric == "pgd_accuracy"]
    for axis, attack_p in zip(axes, (2.0, math.inf), strict=True):
        epsilons = sorted(
            {r.options["epsilon"] for r in attacks if number(r.options["p"]) == attack_p}
        )
        trained = [(2.0, 0.0), *((p, e) for p in suite.norms() for e in suite.budgets(p))]
        for p, epsilon in trained:
            options = {"p": "inf" if attack_p == math.inf else attack_p}
            estimates = [suite.mean("accuracy", p, epsilon, split="test")] + [
                suite.mean("pgd_accuracy", p, epsilon, epsilon=e, **options) for e in epsilons
            ]
            strength = suite.budgets(p).index(epsilon) + 1 if epsilon else 1
            axis.plot(
                range(len(estimates)),
                [PERCENT * e.value for e in estimates],
                color=COLORS[p if epsilon else 0.0],
                linestyle=("-", "--", ":")[(strength - 1) % 3] if epsilon else "-",
                marker="o",
                markersize=3,
                label=f"{norm_label(p)} {budget_label(p, epsilon)}" if epsilon else "standard",
            )
        labels = [budget_label(attack_p, e) for e in epsilons]
        axis.set_xticks(range(len(epsilons) + 1), ["clean", *labels])
        axis.set_xlabel(f"{norm_label(attack_p)} budget of the PGD attack")
    axes[0].set_ylabel("accuracy (%)")
    if axes[1].lines:
        axes[1].legend(fontsize=7, ncols=2, title="trained with", title_fontsize=7)
    return figure, "Accuracy under PGD at evaluation: what adversarial training was for."


FIGURES = {
    "snapshot": _snapshot,
    "sensitivity": _sensitivity,
    "background_gap": _gap,
    "groups": _groups,
    "robustness": _robustness,
}


def _panels(suite, plt, *, rows):
    """A column of panels for each norm."""
    norms = suite.norms()
    size = (4.2 * len(norms), 2.5 * rows + 0.5)
    figure, axes = plt.subplots(rows, len(norms), figsize=size, sharey="row", squeeze=False)
    for axis, p in zip(axes[0], norms, strict=True):
        axis.set_title(f"{norm_label(p)} adversarial training")
    return figure, axes


def _curve(axis, suite, metric, p, *, marker="o", label=None, with_standard=False, **options):
    """The metric against the budgets of one norm, and the standard model as a band or a point."""
    base = suite.mean(metric, p, 0.0, **options)
    budgets = suite.budgets(p)
    shown = [0.0, *budgets] if with_standard else budgets
    estimates = [suite.mean(metric, p, e, **options) for e in shown]
    if not with_standard:
        axis.axhspan(PERCENT * base.low, PERCENT * base.high, color=COLORS[0.0], alpha=0.2, lw=0)
        axis.axhline(PERCENT * base.value, color=COLORS[0.0], linestyle="--", label="standard")
    values = [PERCENT * e.value for e in estimates]
    axis.plot(range(len(shown)), values, color=COLORS[p], linewidth=1.2)
    for x, (epsilon, estimate) in enumerate(zip(shown, estimates, strict=True)):
        gap = difference(estimate, base)
        hollow = epsilon and gap.low <= 0 <= gap.high
        color = COLORS[p] if epsilon else COLORS[0.0]
        _error_bar(
            axis,
            x,
            estimate,
            color,
            marker=marker,
            markerfacecolor="white" if hollow else color,
            label=label if x == 0 else None,
        )
        of_seeds = suite.of_seeds(metric, p, epsilon, **options)
        if len(of_seeds) > 1:
            axis.plot(
                [x] * len(of_seeds),
                [PERCENT * e.value for _, e in of_seeds],
                ".",
                color="black",
                markersize=3,
            )
    axis.set_xticks(range(len(shown)), [budget_label(p, e) if e else "standard" for e in shown])
    axis.set_xlabel("training budget ε")
    axis.margins(x=0.12)


def _error_bar(axis, x, estimate, color, **options):
    if math.isnan(estimate.value):
        return
    below, above = max(estimate.value - estimate.low, 0), max(estimate.high - estimate.value, 0)
    lengths = [[PERCENT * below], [PERCENT * above]]
    axis.errorbar(
        [x], [PERCENT * estimate.value], yerr=lengths, color=color, capsize=2.5, **options
    )
