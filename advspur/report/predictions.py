"""What the linear theory predicted for networks, compared with what was measured.

predictions.json is written before training (scripts/reproduce.py), and each of its settings has a
directory with the records of its networks. Intervals resample settings and seeds, 2,000 times.
"""

import hashlib
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from advspur._checks import InputError, require
from advspur._files import read_json
from advspur.records import COMPLETE, read_records
from advspur.report import headlines as h
from advspur.report.claims import Finding
from advspur.report.panels import COLORS, grid
from advspur.report.resampling import across, mean_known, over_all, resampled, within
from advspur.report.suite import (
    STANDARD,
    budget_label,
    norm_label,
    number,
    suite_of,
    training_label,
)

GAP, BACKGROUND, DEEP_NFS = h.SHAPES_GROUPS[2], h.SHAPES_GAPS[0], h.of_masks(h.SHAPES, "", "")[2]
MEASURED = ((GAP, "nfs"), (BACKGROUND, "nfs"), (DEEP_NFS, "gradient_share"))
GOAL = 0.9  # for Spearman's correlation over all networks
HALF = 0.5  # the NFS at which the minority is a toss-up in the model, and the gap 50 points
FEW_SETTINGS = 3  # if networks differ in fewer settings than this, every verdict is open
JITTERS = ("position_jitter", "size_jitter", "color_jitter")
CAPTION = (
    "One point per network, mean over seeds; filled if objects vary in place, size and colour, "
    "else hollow. Left: measured gap against |θ_S|/|θ| of the two-cue model. Middle: measured "
    "against predicted share of the squared input gradient off the object. Right: rank by measured "
    "gap against rank by predicted NFS. On the dotted lines, measurement and prediction agree."
)


class Comparison(NamedTuple):
    """Predictions for s settings and m kinds of training, and measurements with r seeds."""

    digest: str  # SHA-256 of predictions.json
    settings: dict  # {name: its entry in predictions.json}, of those that are compared
    missing: list  # names of the settings without all their networks
    models: list  # [(p, epsilon)], m of them; p is STANDARD at epsilon 0
    predicted: dict  # {"nfs", "gradient_share": [s, m]}
    measured: dict  # {name of a headline: [s, m, r]}

    @property
    def is_fixed(self):
        """[s]: do all objects have the same place, size and colour?"""
        every = (facts["dials"] for facts in self.settings.values())
        return np.array([not any(dials[name] for name in JITTERS) for dials in every])

    @property
    def norms(self):
        """The norms of the attacks, as printed."""
        first = next(iter(self.settings.values()))
        return [norm_label(number(norm["p"])) for norm in first["norms"]]

    @property
    def kinds(self):
        """{norm: [m]}: which models were trained in it."""
        norms = np.array([p for p, _ in self.models])
        return {p: norms == p for p in dict.fromkeys(norms.tolist())}


def read_predictions(directory):
    """The Comparison of a directory; None without predictions or without networks."""
    path = Path(directory) / "predictions.json"
    if not path.exists():
        return None
    content = read_json(path)
    try:
        settings = content["settings"]
        kinds = {name: [_kind(m) for m in facts["models"]] for name, facts in settings.items()}
        models = next(iter(kinds.values()), [])
        predicted = {
            key: {
                name: [_number(m[key]) for m in facts["models"]] for name, facts in settings.items()
            }
            for _, key in MEASURED
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path} is damaged: {error!r}") from error
    require(models, f"{path} is damaged: it has no settings with models")
    require(
        all(of == models for of in kinds.values()),
        f"{path} is damaged: its settings do not have the same models",
    )
    found = {name: _measures(path.parent / name / "records.jsonl", models) for name in settings}
    seeds = max(len(of) for of in found.values())
    whole = [
        name for name, of in found.items() if of and len(of) == seeds and np.isfinite(of).all()
    ]
    if not whole:
        return None
    measured = np.array([found[name] for name in whole])  # [s, r, m, headline]
    return Comparison(
        hashlib.sha256(path.read_bytes()).hexdigest(),
        {name: settings[name] for name in whole},
        [name for name in settings if name not in whole],
        models,
        {key: np.array([of[name] for name in whole]) for key, of in predicted.items()},
        {m.name: measured[..., i].swapaxes(1, 2) for i, (m, _) in enumerate(MEASURED)},
    )


def model_label(p, epsilon):
    """A kind of training as printed: standard, ℓ2 0.25."""
    return f"{norm_label(p)} {budget_label(p, epsilon)}" if p else "standard"


def _kind(model):
    return (number(model["p"]) if model["epsilon"] else STANDARD), model["epsilon"]


def _number(value):
    return math.nan if value is None else value


def _measures(path, models):
    """[seed][model][headline] of the records of one setting."""
    numbers = [r for r in read_records(path) if r.metric != COMPLETE and r.benchmark == h.SHAPES]
    suite = suite_of(numbers)
    by_place = {(m.seed, m.p, m.epsilon): m.name for m in suite.models}
    return [
        [
            [suite.estimate(of, by_place.get((seed, *kind), "")).value for of, _ in MEASURED]
            for kind in models
        ]
        for seed in sorted({m.seed for m in suite.models})
    ]


def prediction_findings(comparison):
    """The Findings about the ranks of networks and the error of the predicted numbers."""
    c = comparison
    gap, nfs = c.measured[GAP.name], c.predicted["nfs"]
    every = np.ones(len(gap), bool)
    for headline, key in MEASURED:
        measured, predicted = c.measured[headline.name], c.predicted[key]
        what = f"The {headline.name} ranks all networks as predicted: ρ ≥ {GOAL:g} (our goal)."
        yield _ranked("order", what, over_all, measured, predicted, GOAL)
    parts = {"vary": ~c.is_fixed, "are fixed": c.is_fixed}
    for name, part in parts.items() if len({*c.is_fixed}) > 1 else ():
        what = f"The same for the {GAP.name}, if objects {name}."
        yield _ranked("order", what, over_all, gap[part], nfs[part], GOAL)
    kinds = c.kinds
    for p in (p for p in kinds if p != STANDARD and STANDARD in kinds):
        of_norm = kinds[p] | kinds[STANDARD]
        what = (
            f"Within a setting the {GAP.name} changes with the {norm_label(p)} budget as predicted."
        )
        for name, part in (("", every), *((f" Objects {n}.", part) for n, part in parts.items())):
            if part.any() and (not name or not part.all()):
                chosen = gap[part][:, of_norm], nfs[part][:, of_norm]
                yield _ranked("within settings", what + name, within, *chosen)
    if len(c.settings) > 2:
        what = f"At one budget the {GAP.name} ranks the settings as predicted."
        yield _ranked("across settings", what, across, gap, nfs)
    adversarial = [of for p, of in kinds.items() if p != STANDARD]
    if len(adversarial) > 1:
        yield _between(gap, nfs, *adversarial[:2])
    yield _halves(gap, nfs)
    yield _calibration(c.measured[DEEP_NFS.name], c.predicted["gradient_share"])


def _ranked(about, statement, correlate, measured, predicted, goal=None):
    """A Finding about a mean rank correlation, clear if its interval excludes 0."""
    estimate = resampled(correlate, measured, predicted)
    if math.isnan(estimate.value):
        return Finding(about, statement, "open", "All predictions or all networks are equal.")
    verdict = "holds" if estimate.low > 0 else "fails" if estimate.high < 0 else "open"
    # Networks that never use the background have the same gap at every budget, so no ranks.
    ordered = int(np.sum(np.any(np.ptp(measured, axis=1) > 0, axis=1)))
    if ordered < FEW_SETTINGS:
        verdict = "open"
    if goal and verdict == "holds" and estimate.value < goal:
        verdict = "holds in part"
    settings, kinds, seeds = measured.shape
    shape = f"{settings} settings, {kinds} kinds of training, {seeds} seed{'s' * (seeds > 1)}"
    mean = "ρ" if correlate is over_all else "Mean ρ"
    detail = f"{mean} = {estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]; {shape}."
    if ordered < len(measured):
        detail += f" All networks are equal in {len(measured) - ordered} of the settings."
    return Finding(about, statement, verdict, detail)


def _between(gap, nfs, one, other):
    """A Finding: of two models of different norms, does the larger NFS mean the larger gap?"""

    def agree(gap, nfs):
        measured = gap[:, :, one, None] - gap[:, :, None, other]
        predicted = (nfs[:, :, one, None] - nfs[:, :, None, other])[..., None]
        is_predicted = np.broadcast_to((predicted != 0) & np.isfinite(predicted), measured.shape)
        return mean_known(np.where(is_predicted, measured * predicted > 0, np.nan))

    e = resampled(agree, gap, nfs)
    verdict = "holds" if e.low > HALF else "fails" if e.high < HALF else "open"
    statement = f"Of two norms, the one with the larger predicted NFS has the larger {GAP.name}."
    detail = f"True for {e.value:.0%} [{e.low:.0%}, {e.high:.0%}] of pairs in one setting and seed."
    return Finding("between norms", statement, verdict, detail)


def _halves(gap, nfs):
    predicted, found = np.broadcast_to((nfs >= HALF)[..., None], gap.shape), gap >= HALF
    statement = "The networks that rely on the background more than on the object are as predicted."
    both, n = int(np.sum(predicted & found)), gap.size
    detail = (
        f"NFS ≥ 1/2 is predicted for {predicted.sum()} of {n} networks; {found.sum()} have a gap "
        f"of 50 points or more, {both} of them as predicted."
    )
    agreed = bool(np.all(predicted == found))
    return Finding("half", statement, "holds" if agreed else "fails", detail)


def _calibration(measured, predicted):
    error = measured - predicted[..., None]
    statement = "Deep NFS is within 0.1 of the two-cue model's prediction on average."
    mean = float(np.nanmean(np.abs(error)))
    detail = f"Mean absolute error {mean:.2f}, mean error {np.nanmean(error):+.2f}."
    return Finding("calibration", statement, "holds" if mean <= 0.1 else "fails", detail)


def prediction_table(comparison):
    """One row per setting: predicted NFS → measured gap (mean over seeds) by kind of training."""
    c = comparison
    gaps = c.measured[GAP.name].mean(axis=2)
    both = zip(c.settings.items(), c.predicted["nfs"], gaps, strict=True)
    rows = []
    for (name, facts), nfs, gap in both:
        half = [_number(norm["half_budget"]) for norm in facts["norms"]]
        shown = ["θ = 0" if math.isnan(n) else f"{n:.3f}" for n in nfs]
        cells = [f"{n} → {100 * g:.0f}" for n, g in zip(shown, gap, strict=True)]
        rows.append((name, cells, ["–" if math.isnan(b) else f"{b:.3g}" for b in half]))
    return rows


def prediction_figure(comparison):
    """Yield (file name, title, figure, caption)."""
    c = comparison
    figure, axes = grid(3, 3.6, 3.3)
    gap, deep = (100 * c.measured[m.name].mean(axis=2) for m in (GAP, DEEP_NFS))
    nfs, share = c.predicted["nfs"], 100 * c.predicted["gradient_share"]
    ranks = [stats.rankdata(a).reshape(a.shape) for a in (nfs, gap)]
    shown = ((np.sqrt(nfs), gap), (share, deep), ranks)
    labels = (
        ("predicted |θ_S|/|θ|", f"{GAP.name} (points)"),
        ("predicted share off the object (%)", "deep NFS (%)"),
        ("predicted rank", "measured rank"),
    )
    for axis, (x, y), (below, beside) in zip(axes, shown, labels, strict=True):
        for p, of in c.kinds.items():
            for part, fill in ((~c.is_fixed, COLORS[p]), (c.is_fixed, "none")):
                at = np.ix_(part, of)
                look = {"color": COLORS[p], "markerfacecolor": fill, "markersize": 4}
                axis.plot(x[at].ravel(), y[at].ravel(), "o", **look)
        axis.set_xlabel(below)
        axis.set_ylabel(beside)
    for axis in axes[1:]:
        axis.axline((0, 0), slope=1, color="black", linewidth=0.8, linestyle=":")
    handles = [
        axes[0].plot([], [], "o", color=COLORS[p], label=training_label(p))[0] for p in c.kinds
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    yield "predictions", "Predicted and measured", figure, CAPTION
