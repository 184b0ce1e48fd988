"""The kinds of panels: bars, numbers against the training budget, one accuracy against another.

Colour is the norm of the training, marker and line style the architecture. A marker is hollow
unless the interval of its difference from the standard model of its architecture excludes 0.
"""

import math
import textwrap

from advspur.intervals import difference
from advspur.report.suite import STANDARD, budget_label, mean_estimate, norm_label

COLORS = {STANDARD: "#6b6b6b", 2.0: "#c8532b", math.inf: "#2b6cb0"}
LOOKS = (("o", "-"), ("s", "--"), ("^", ":"), ("D", "-."))  # marker and line of an architecture
PERCENT = 100
BARS_PER_ROW = 3


def bars(suite, measures, plt):
    """A panel a measure: standard models and those of each norm, averaged."""
    rows = math.ceil(len(measures) / BARS_PER_ROW)
    columns = min(len(measures), BARS_PER_ROW)
    size = (2.9 * columns, 2.7 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for axis in axes.flat[len(measures) :]:
        axis.remove()
    for axis, measure in zip(axes.flat, measures, strict=False):
        ticks = []
        for x, p in enumerate((STANDARD, *suite.norms())):
            found = [e for a in suite.archs() for e in suite.curve(measure, a, p).values()]
            ticks.append(f"{_training(p)}\nn = {len(found)}")
            if found:
                mean = mean_estimate(found)
                axis.bar(x, PERCENT * mean.value, color=COLORS[p], width=0.7)
                error_bar(axis, x, mean, "black", marker="none")
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_xticks(range(len(ticks)), ticks, fontsize=8.5)
        axis.set_title(_label(measure), fontsize=9.5)
        axis.grid(axis="x", visible=False)
    return figure


def by_budget(suite, measures, plt):
    """A row a measure and a column a norm, from the standard model on."""
    norms = suite.norms()
    size = (4.6 * len(norms), 2.35 * len(measures) + 0.8)
    figure, axes = plt.subplots(
        len(measures), len(norms), figsize=size, sharex="col", sharey="row", squeeze=False
    )
    for column, p in zip(axes.T, norms, strict=True):
        budgets = _budgets(suite, measures, p)
        for axis, measure in zip(column, measures, strict=True):
            for look, arch in enumerate(suite.archs()):
                _curve(axis, suite, measure, arch, p, look, budgets)
            if measure.even and suite.has(measure.even):
                numbers = (suite.estimate(measure.even, m.name).value for m in suite.models)
                value = PERCENT * next(filter(math.isfinite, numbers))  # a fact of the images
                axis.axhline(value, color="black", linestyle=":", linewidth=1)
        labels = [budget_label(p, e) if e else "standard" for e in budgets]
        column[-1].set_xticks(range(len(budgets)), labels)
        column[-1].set_xlabel("training budget ε")
        column[0].set_title(f"{norm_label(p)} adversarial training")
    for axis, measure in zip(axes[:, 0], measures, strict=True):
        axis.set_ylabel(_label(measure))
    extra = [_mark(plt, "x", label="paper")] if any(m.paper for m in measures) else []
    if any(m.even and suite.has(m.even) for m in measures):
        extra.append(_mark(plt, "none", ":", label="area off the core", linewidth=1))
    _legend(figure, plt, suite, extra)
    return figure


def by_accuracy(suite, measures, plt):
    """A panel a ratio: its one accuracy against the other, one point a model."""
    figure, axes = plt.subplots(1, len(measures), figsize=(4.6 * len(measures), 4.2), squeeze=False)
    for axis, measure in zip(axes[0], measures, strict=True):
        accuracy = measure._replace(over=None)
        for look, arch in enumerate(suite.archs()):
            marker, line = _look(look)
            base = suite.baseline(measure, arch)
            for p in (STANDARD, *suite.norms()):
                x, y = (suite.curve(m, arch, p) for m in (measure.over, accuracy))
                for epsilon, slope in suite.curve(measure, arch, p).items():
                    face = COLORS[p] if p == STANDARD or _clear(slope, base) else "white"
                    at = PERCENT * x[epsilon].value
                    options = {"marker": marker, "markerfacecolor": face, "markersize": 5}
                    across = _lengths(x[epsilon])
                    error_bar(axis, at, y[epsilon], COLORS[p], xerr=across, **options)
            if math.isfinite(base.value):
                start = [PERCENT * suite.baseline(m, arch).value for m in (measure.over, accuracy)]
                axis.axline(start, slope=base.value, color=COLORS[STANDARD], linestyle=line, lw=1)
        axis.set_xlabel(f"{measure.over.title} {measure.over.name} (%)")
        axis.set_ylabel(f"{measure.title} {accuracy.metric.replace('_', ' ')} (%)")
    norms = [
        plt.Line2D([], [], color=COLORS[p], linewidth=4, label=_training(p))
        for p in (STANDARD, *suite.norms())
    ]
    _legend(figure, plt, suite, norms)
    return figure


def _curve(axis, suite, measure, arch, p, look, budgets):
    """The numbers of one architecture at their places among the budgets, and its baseline."""
    marker, line = _look(look)
    base = suite.baseline(measure, arch)
    if math.isfinite(base.value):
        color = COLORS[STANDARD]
        axis.axhspan(PERCENT * base.low, PERCENT * base.high, color=color, alpha=0.15, lw=0)
        axis.axhline(PERCENT * base.value, color=color, linestyle=line, linewidth=1)
    shift = 0.2 * (look - (len(suite.archs()) - 1) / 2)  # error bars beside each other
    curve = {e: (STANDARD, found) for e, found in suite.seeds(measure, arch, STANDARD).items()}
    curve |= {e: (p, found) for e, found in suite.seeds(measure, arch, p).items()}
    places = [budgets.index(e) + shift for e in curve]
    means = [mean_estimate(found) for _, found in curve.values()]
    axis.plot(places, [PERCENT * e.value for e in means], color=COLORS[p], linestyle=line, lw=1.2)
    for x, mean, (norm, found) in zip(places, means, curve.values(), strict=True):
        face = COLORS[norm] if norm == STANDARD or _clear(mean, base) else "white"
        options = {"marker": marker, "markerfacecolor": face, "markersize": 5}
        error_bar(axis, x, mean, COLORS[norm], **options)
        if len(found) > 1:
            values = [PERCENT * e.value for e in found]
            axis.plot([x] * len(found), values, ".", color="black", markersize=3)
    for (of_arch, of_norm, epsilon), value in measure.paper:
        if of_arch == arch and of_norm in (STANDARD, p) and epsilon in budgets:
            at = budgets.index(epsilon) + shift
            axis.plot(at, PERCENT * value, "x", color="black", markersize=6, zorder=5)


def _budgets(suite, measures, p):
    """All training budgets recorded for a norm, with 0 of standard models, ascending."""
    found = (
        suite.curve(m, a, norm) for m in measures for a in suite.archs() for norm in (STANDARD, p)
    )
    return sorted(set().union(*found))


def _clear(estimate, base):
    gap = difference(estimate, base)
    return gap.low > 0 or gap.high < 0


def _training(p):
    return f"{norm_label(p)} AT" if p else "standard"


def _look(index):
    return LOOKS[index % len(LOOKS)]


def _label(measure):
    name = textwrap.fill(f"{measure.name} ({measure.unit})", 30)
    return f"{measure.title}\n{name}"


def _legend(figure, plt, suite, extra):
    """Names of the architectures, the hollow marker and what else the figure has, on top."""
    handles = [
        _mark(plt, *_look(i), label=arch, markersize=5) for i, arch in enumerate(suite.archs())
    ]
    hollow = {"markerfacecolor": "white", "label": "not clearly different from standard"}
    handles += [_mark(plt, "o", **hollow), *extra]
    columns = int(figure.get_figwidth() // 2)  # the widest entry takes about 2 inches
    place = {"loc": "outside upper center", "ncols": columns}
    figure.legend(handles=handles, fontsize=9, handlelength=2.6, **place)


def _mark(plt, marker, line="none", **options):
    return plt.Line2D([], [], color="black", marker=marker, linestyle=line, **options)


def _lengths(estimate):
    below, above = max(estimate.value - estimate.low, 0), max(estimate.high - estimate.value, 0)
    return [[PERCENT * below], [PERCENT * above]]


def error_bar(axis, x, estimate, color, **options):
    """A marker at an Estimate, and its interval."""
    y, lengths = [PERCENT * estimate.value], _lengths(estimate)
    axis.errorbar([x], y, yerr=lengths, color=color, capsize=2, elinewidth=1, **options)
