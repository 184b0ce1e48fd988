"""The kinds of panels: bars, numbers against the training budget, one accuracy against another.

Colour is the norm of the training, marker and line style the architecture. A marker is hollow
unless the interval of its difference from the standard model of its architecture excludes 0.
"""

import itertools
import math
import textwrap

import matplotlib.pyplot as plt

from advspur.intervals import difference
from advspur.report.suite import (
    STANDARD,
    UNKNOWN,
    budget_label,
    mean_estimate,
    norm_label,
    training_label,
)

COLORS = {STANDARD: "#6b6b6b", 2.0: "#c8532b", math.inf: "#2b6cb0", UNKNOWN: "#7b3fa0"}
OTHER = "#2f8f5b"  # of a norm that the paper does not have
UNKNOWN_LOOKS = "PX*vp<"  # markers of models of unknown training
LOOKS = (("o", "-"), ("s", "--"), ("^", ":"), ("D", "-."))  # marker and line of an architecture
PERCENT = 100
PANELS_PER_ROW = 3
NAME_LENGTH = 24


def bars(suite, headlines):
    """A panel a headline: a bar for the mean of each kind of models."""
    figure, axes = grid(len(headlines), 2.9, 2.7)
    for axis, headline in zip(axes, headlines, strict=True):
        ticks = []
        for x, p in enumerate(suite.kinds()):
            found = suite.of_kind(headline, p)
            ticks.append(f"{training_label(p)}\nn = {len(found)}")
            if found:
                mean = mean_estimate(found)
                axis.bar(x, PERCENT * mean.value, color=COLORS[p], width=0.7)
                error_bar(axis, x, mean, "black", marker="none")
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_xticks(range(len(ticks)), ticks, fontsize=8.5)
        axis.set_title(_label(headline), fontsize=9.5)
        axis.grid(axis="x", visible=False)
    return figure


def by_model(suite, headlines):
    """A panel a headline: a bar for every model, by name; it needs no training budget."""
    shown = [suite.numbers(h) for h in headlines]
    models = [m for m in suite.models if any(m.name in numbers for numbers in shown)]
    figure, axes = grid(len(headlines), 3.2, 0.24 * len(models) + 0.9, sharey=True)
    for axis, headline, numbers in zip(axes, headlines, shown, strict=True):
        for y, m in enumerate(models):
            if m.name in numbers:
                x = PERCENT * numbers[m.name].value
                axis.barh(y, x, color=COLORS.get(m.p, OTHER), height=0.7)
                lengths = {"xerr": _lengths(numbers[m.name]), "capsize": 2, "lw": 1}
                axis.errorbar([x], [y], color="black", **lengths)
        _even(axis.axvline, suite, headline)
        axis.axvline(0, color="black", linewidth=0.8)
        if all(h.metric.endswith("accuracy") for h in headlines):  # to compare the panels
            axis.set_xlim(0, PERCENT)
        axis.set_yticks(range(len(models)), [_short(m.name) for m in models], fontsize=8.5)
        axis.set_ylim(len(models) - 0.5, -0.5)  # the first model on top
        axis.set_title(_label(headline), fontsize=9.5)
        axis.grid(axis="y", visible=False)
    handles = _kind_marks(dict.fromkeys(m.p for m in models)) + _even_mark(suite, headlines)
    place = {"loc": "outside upper center", "ncols": int(figure.get_figwidth() // 1.5)}
    figure.legend(handles=handles, fontsize=9, **place)
    return figure


def by_budget(suite, headlines):
    """A row a headline and a column a norm: the standard model, the budgets, unknown models."""
    norms, others = suite.norms(), unknown_names(suite, headlines)
    shape = len(headlines), len(norms)
    size = ((4.6 + 0.35 * len(others)) * len(norms), 2.35 * len(headlines) + 0.8)
    figure, axes = plt.subplots(*shape, figsize=size, sharex="col", sharey="row", squeeze=False)
    for column, p in zip(axes.T, norms, strict=True):
        curves = [suite.curves(h, norm) for h in headlines for norm in (STANDARD, p)]
        budgets = sorted({e for of_archs in curves for curve in of_archs.values() for e in curve})
        for axis, headline in zip(column, headlines, strict=True):
            for look, arch in enumerate(suite.archs()):
                _curve(axis, suite, headline, arch, p, look, budgets)
            for name, found in suite.points(headline).items():
                place = len(budgets) + others.index(name)
                error_bar(axis, place, found, COLORS[UNKNOWN], marker=UNKNOWN_LOOKS[0])
            _even(axis.axhline, suite, headline)
        labels = [budget_label(p, e) if e else "standard" for e in budgets]
        labels += map(_short, others)
        column[-1].set_xticks(range(len(labels)), labels)
        for tick in column[-1].get_xticklabels()[len(budgets) :]:
            tick.set(rotation=40, ha="right", rotation_mode="anchor", size=8, color=COLORS[UNKNOWN])
        column[-1].set_xlabel("training budget ε")
        column[0].set_title(f"{norm_label(p)} adversarial training")
    for axis, headline in zip(axes[:, 0], headlines, strict=True):
        axis.set_ylabel(_label(headline))
    extra = [_mark("x", label="paper")] if any(h.paper for h in headlines) else []
    extra += _even_mark(suite, headlines)
    if others:
        extra.append(_mark(UNKNOWN_LOOKS[0], label="unknown training", color=COLORS[UNKNOWN]))
    _legend(figure, suite, extra)
    return figure


def by_accuracy(suite, headlines):
    """A panel a ratio: its one accuracy against the other, one point a model."""
    size = (4.6 * len(headlines), 4.2)
    figure, axes = plt.subplots(1, len(headlines), figsize=size, squeeze=False)
    looks = dict(zip(unknown_names(suite, headlines), itertools.cycle(UNKNOWN_LOOKS), strict=False))
    for axis, headline in zip(axes[0], headlines, strict=True):
        both = headline.over, headline._replace(over=None)
        for index, arch in enumerate(suite.archs()):
            marker, line = _look(index)
            base = suite.baseline(headline, arch)
            for p in (STANDARD, *suite.norms()):
                x, y = (suite.curve(h, arch, p) for h in both)
                for epsilon, slope in suite.curve(headline, arch, p).items():
                    look = {"marker": marker, "markersize": 5, "xerr": _lengths(x[epsilon])}
                    look["markerfacecolor"] = _face(p, slope, base)
                    at = PERCENT * x[epsilon].value
                    error_bar(axis, at, y[epsilon], COLORS[p], **look)
            if math.isfinite(base.value):
                start = [PERCENT * suite.baseline(h, arch).value for h in both]
                axis.axline(start, slope=base.value, color=COLORS[STANDARD], linestyle=line, lw=1)
        for name in suite.points(headline):
            x, y = (suite.estimate(h, name) for h in both)
            look = {"marker": looks[name], "markersize": 6, "xerr": _lengths(x)}
            error_bar(axis, PERCENT * x.value, y, COLORS[UNKNOWN], **look)
        axis.set_xlabel(f"{headline.over.title} {headline.over.name} (%)")
        axis.set_ylabel(f"{headline.title} {headline.metric.replace('_', ' ')} (%)")
    others = [_mark(m, label=_short(n), color=COLORS[UNKNOWN]) for n, m in looks.items()]
    _legend(figure, suite, _kind_marks(suite.kinds()) + others)
    return figure


def grid(count, width, height, margin=0.0, **options):
    """(figure, axes) of `count` panels of this size in inches, PANELS_PER_ROW a row."""
    rows, columns = math.ceil(count / PANELS_PER_ROW), min(count, PANELS_PER_ROW)
    size = (width * columns + margin, height * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, **options)
    for axis in axes.flat[count:]:
        axis.remove()
    return figure, list(axes.flat[:count])


def error_bar(axis, x, estimate, color, **options):
    """A marker at an Estimate, and its interval."""
    y, lengths = [PERCENT * estimate.value], _lengths(estimate)
    axis.errorbar([x], y, yerr=lengths, color=color, capsize=2, elinewidth=1, **options)


def seed_dots(axis, x, values, size):
    """A dot for each of several seeds."""
    if len(values) > 1:
        values = [PERCENT * value for value in values]
        axis.plot([x] * len(values), values, ".", color="black", markersize=size)


def _curve(axis, suite, headline, arch, p, look, budgets):
    """The numbers of one architecture at their places among the budgets, and its baseline."""
    marker, line = _look(look)
    base = suite.baseline(headline, arch)
    if math.isfinite(base.value):
        color = COLORS[STANDARD]
        axis.axhspan(PERCENT * base.low, PERCENT * base.high, color=color, alpha=0.15, lw=0)
        axis.axhline(PERCENT * base.value, color=color, linestyle=line, linewidth=1)
    shift = 0.2 * (look - (len(suite.archs()) - 1) / 2)  # error bars beside each other
    curve = [
        (budgets.index(epsilon) + shift, norm, mean_estimate(found), found)
        for norm in (STANDARD, p)
        for epsilon, found in suite.seeds(headline, arch, norm).items()
    ]
    values = [PERCENT * mean.value for _, _, mean, _ in curve]
    places = [place for place, *_ in curve]
    axis.plot(places, values, color=COLORS[p], linestyle=line, lw=1.2)
    for x, norm, mean, found in curve:
        options = {"marker": marker, "markerfacecolor": _face(norm, mean, base), "markersize": 5}
        error_bar(axis, x, mean, COLORS[norm], **options)
        seed_dots(axis, x, [e.value for e in found], 3)
    for (of_arch, of_norm, epsilon), value in headline.paper:
        if of_arch == arch and of_norm in (STANDARD, p) and epsilon in budgets:
            at = budgets.index(epsilon) + shift
            axis.plot(at, PERCENT * value, "x", color="black", markersize=6, zorder=5)


def _face(p, estimate, base):
    """The colour a marker is filled with: white unless the model differs clearly."""
    gap = difference(estimate, base)
    is_clear = p == STANDARD or gap.low > 0 or gap.high < 0
    return COLORS[p] if is_clear else "white"


def _short(name):
    return name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1]}…"


def _even(draw_line, suite, headline):
    """A line at what the number would be of a model that tells no regions apart."""
    if headline.even and suite.has(headline.even):
        numbers = (suite.estimate(headline.even, m.name).value for m in suite.models)
        value = PERCENT * next(filter(math.isfinite, numbers))  # a fact of the images
        draw_line(value, color="black", linestyle=":", linewidth=1)


def _even_mark(suite, headlines):
    """The legend's handle of that line, if there is one."""
    is_drawn = any(h.even and suite.has(h.even) for h in headlines)
    return [_mark("none", ":", label="area off the core", linewidth=1)] if is_drawn else []


def unknown_names(suite, headlines):
    """The names of the models of unknown training that have any of the numbers."""
    return list(dict.fromkeys(name for h in headlines for name in suite.points(h)))


def _kind_marks(kinds):
    return [
        plt.Line2D([], [], color=COLORS.get(p, OTHER), linewidth=4, label=training_label(p))
        for p in kinds
    ]


def _look(index):
    return LOOKS[index % len(LOOKS)]


def _label(headline):
    name = textwrap.fill(f"{headline.name} ({headline.unit})", 30)
    return f"{headline.title}\n{name}"


def _legend(figure, suite, extra):
    """Names of the architectures, the hollow marker and what else the figure has, on top."""
    handles = [_mark(*_look(i), label=arch, markersize=5) for i, arch in enumerate(suite.archs())]
    hollow = {"markerfacecolor": "white", "label": "not clearly different from standard"}
    handles += [_mark("o", **hollow), *extra] if handles else extra
    columns = int(figure.get_figwidth() // 2)  # the widest entry takes about 2 inches
    place = {"loc": "outside upper center", "ncols": columns}
    figure.legend(handles=handles, fontsize=9, handlelength=2.6, **place)


def _mark(marker, line="none", **options):
    return plt.Line2D([], [], marker=marker, linestyle=line, **{"color": "black"} | options)


def _lengths(estimate):
    below, above = max(estimate.value - estimate.low, 0), max(estimate.high - estimate.value, 0)
    return [[PERCENT * below], [PERCENT * above]]
