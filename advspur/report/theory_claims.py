"""The paper's claims about its Figures 2, 3 and 4, checked on the arrays of the theory.

"holds": true in every compared cell; "fails": contradicted in a cell, or true in none; "holds in
part": never contradicted, true in some cells. Cells where the model is 0 (no NFS) are left out; so
is η = 0, where nothing is correlated, for claims about the use of spurious features.
"""

import math
import zipfile
from pathlib import Path

import numpy as np

from advspur._checks import InputError
from advspur.report.claims import Finding
from advspur.report.suite import norm_label

TOLERANCE = 1e-9
MORE = "larger values of the {} “cause the model to become more reliant”"


def read_theory(directory):
    """{"nfs", "scale", "shift", "weights": arrays by name}, from whichever theory_*.npz exist."""
    found = {}
    for name in CLAIMS:
        path = Path(directory) / f"theory_{name}.npz"
        try:
            with np.load(path, allow_pickle=False) as arrays:
                found[name] = dict(arrays)
        except FileNotFoundError:
            continue
        except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
            raise InputError(f"{path} is not a readable .npz file: {error}") from error
    return found


def theory_findings(theory):
    """The Findings of all claims whose arrays `read_theory` found."""
    return [f for name, arrays in theory.items() for f in CLAIMS[name](arrays) if f is not None]


def _nfs_claims(a):
    some, spurious = a["etas"] > 0, a["is_spurious"]
    names = "norms", "nfs", "theta", "epsilons"
    for p, nfs, theta, budgets in zip(*(a[name] for name in names), strict=True):
        uses, alive, norm = _uses(theta, spurious), ~np.isnan(nfs), norm_label(p)
        if p == math.inf:
            none = f"{norm}: the model “does not rely on the spurious features”"
            note = f" Largest NFS: {np.max(nfs[alive], initial=0):.3g}."
            axes = (("η", a["etas"]), ("ε", budgets))
            yield _everywhere("2c", none, ~uses, alive, axes, note)
            continue
        axes = (("η", a["etas"][some]), ("ε", budgets))
        note = _left_out(nfs[~some])
        if p == 1:
            note = _plateau(nfs[some], *axes, a["plateau_onset"][some]) + note
        figure = "2a" if p == 1 else "2b"
        more = f"{norm}: increasing the budget “causes the model to rely more”"
        yield _growth(figure, more, nfs[some], axes, 1, note)
        both = f"{norm}: “the model would use both the core and spurious features”"
        uses &= _uses(theta, ~spurious)
        yield _everywhere(figure, both, uses[some], (alive & (budgets > 0))[some], axes)


def _scale_claims(a):
    some, scales, spurious = a["etas"] > 0, a["scales"], a["is_spurious"]
    etas, nfs, theta = a["etas"][some], a["nfs"][some], a["theta"][some]
    uses = (_uses(theta, spurious) & ~np.isnan(nfs)).any(axis=-1)
    onsets = "; ".join(
        f"η {eta:.4g}: {_span(scales[used])} (above {critical:.4g})"
        for eta, used, critical in zip(etas, uses, a["critical_scale"][some], strict=True)
    )
    verdict = _verdict(uses.any(axis=1).sum(), 0, len(etas))
    scaled_up = "“scaling up the spurious features would cause the model to rely on them”"
    yield Finding("3", scaled_up, verdict, f"Scales of use (threshold in closed form): {onsets}.")

    # The core features have scale 1; this claim is in the paper's list of contributions.
    only = "ℓ∞: reliance “only occurs when the scale of the spurious feature is larger”"
    known = np.append(etas, a["phase_etas"])
    phase = ~np.isnan(a["phase_used_from"])
    below = [x[:, s <= 1].any(axis=1) for x, s in ((uses, scales), (phase, a["phase_scales"]))]
    least = np.append(a["critical_scale"][some], a["phase_critical_scale"])
    good = ~np.concatenate(below) & (least >= 1 - TOLERANCE)
    larger = phase[:, a["phase_scales"] > 1]
    note = (
        f" The threshold is {_span(least[known > 0])}: below 1 a smaller scale is enough, above 1 "
        f"a larger one may not be (unused at {np.sum(~larger)} of {larger.size} larger scales)."
    )
    yield _everywhere("3", only, good, known > 0, (("η", known),), note)

    axes, note = (("η", etas), ("scale", scales), ("ε", a["epsilons"])), _left_out(a["nfs"][~some])
    yield _growth("3", MORE.format("scaling parameter"), nfs, axes, 1, note)
    # The coefficient of a scaled feature shrinks as 1 / scale at equal effect: undo that.
    squares = (theta * np.where(spurious, scales[:, None, None], 1)) ** 2
    size = np.where(np.isnan(nfs), math.nan, squares.sum(axis=-1))
    undone = MORE.format("scaling parameter") + ", with the scale taken out of θ"
    yield _growth("3", undone, squares[..., spurious].sum(axis=-1) / size, axes, 1, note)
    yield _growth("3", MORE.format("budget ε"), nfs, axes, 2, note)


def _shift_claims(a):
    norms, shifts = [norm_label(p) for p in a["norms"]], a["shift_stds"]
    core, total = a["theta"][:, :, 0], a["theta"][:, :, 1]
    still = int(np.argmin(shifts))
    clean = a["loss"][0, :, :, still]  # without noise, all readings agree
    gap = np.where(np.any(total != 0, axis=-1), clean[..., 0] - clean[..., 1], 0)
    lower, higher = gap < -TOLERANCE, gap > TOLERANCE
    where = "; ".join(
        f"{norm}: core lower at ε {_span(e[low])}, higher at {_span(e[high])}"
        for norm, e, low, high in zip(norms, a["epsilons"], lower, higher, strict=True)
    )
    verdict = _verdict(np.sum(lower.any(axis=1) & higher.any(axis=1)), 0, len(norms))
    either = "the clean loss of core “may be higher or lower than that of the total model”"
    yield Finding("4", either, verdict, where + ".")

    use = np.sum(total[..., np.all(core == 0, axis=(0, 1))] ** 2, axis=-1)
    rise = np.delete(a["loss"] - a["loss"][:, :, :, [still]], still, axis=3)
    improved, shifts = np.delete(a["improved"], still, axis=3), np.delete(shifts, still)
    for i, norm in enumerate(norms):
        axes = (("reading", a["readings"]), ("ε", a["epsilons"][i]), ("shift", shifts))
        judged = use[i] > TOLERANCE  # below this, the rise in loss is lost in rounding
        excess = (rise[:, i, ..., 1] - rise[:, i, ..., 0]) / np.where(judged, use[i], 1)[:, None]
        worse = f"{norm}: “the total model is consistently more vulnerable”"
        note = (
            f" Budgets with |θ_S|² > {TOLERANCE:g}: {judged.sum()} of {judged.size}. The core "
            f"model's loss changes by at most {np.max(np.abs(rise[:, i, ..., 0])):.2g}."
        )
        judged, mean = judged[:, None], excess > TOLERANCE
        yield _everywhere("4", worse + ", in expectation", mean, judged, axes, note)
        shares = improved[:, i][:, judged[:, 0]][..., [np.argmin(shifts)]]
        low, high = np.min(shares, initial=1), np.max(shares, initial=0)
        note = f" At shift {shifts.min():.4g}, {low:.1%} to {high:.1%} of draws lower its loss."
        yield _everywhere("4", worse + ", in every draw", improved[:, i] == 0, judged, axes, note)


def _weight_claims(a):
    """Check the statements of docs/theory.md about weights, which are not in the paper."""
    weights, one = a["weights"], int(np.flatnonzero(a["weights"] == 1)[0])
    finite, spurious = np.isfinite(weights), a["is_spurious"]
    for i, p in enumerate(a["norms"]):
        norm, budgets, nfs = norm_label(p), a["epsilons"][i], a["nfs"][i]
        axes = (("w", weights), ("ε", budgets))
        uses, alive = _uses(a["theta"][i], spurious), ~np.isnan(nfs)
        if p == math.inf:
            least = a["protective_weight"][i]
            apart = np.abs(weights[:, None] / least - 1) > TOLERANCE
            exact = f"{norm}: spurious features are used at weights below w*, and at no others"
            note = f" w* is {_span(least)}."
            good = uses == (weights[:, None] < least)
            yield _everywhere("w", exact, good, alive & apart, axes, note)
        else:
            always = f"{norm}: spurious features are used at every finite weight"
            # NFS falls as w^(-2 p): at large weights it is lost in rounding.
            checked = alive & (a["protective_weight"][i] == math.inf) & finite[:, None]
            yield _everywhere("w", always, np.nan_to_num(nfs) > 0, checked, axes)
        fewer = f"{norm}: more weight never makes the model more reliant"
        rises = np.diff(np.sqrt(np.nan_to_num(nfs)), axis=0, prepend=math.inf) > TOLERANCE
        yield _everywhere("w", fewer, ~rises, alive, axes)
        clean = a["clean_loss"][i]
        both = (clean < clean[one] * (1 - TOLERANCE)) & (nfs < nfs[one] - TOLERANCE)
        better = (both & (weights > 1)[:, None]).any(axis=0)
        gain = f"{norm}: some weight above 1 lowers reliance and clean loss at once"
        verdict = _verdict(better.sum(), 0, len(better))
        detail = f"At {better.sum()} of {len(better)} budgets, ε {_span(budgets[better])}"
        core = clean[-1] <= clean[one]
        detail += f"; w = ∞ has the lower clean loss at ε {_span(budgets[core])}."
        yield Finding("w", gain, verdict, detail)


CLAIMS = {
    "nfs": _nfs_claims,
    "scale": _scale_claims,
    "shift": _shift_claims,
    "weights": _weight_claims,
}


def _verdict(toward, against, count):
    if against or not toward:
        return "fails"
    return "holds" if toward == count else "holds in part"


def _everywhere(figure, statement, good, compared, axes, note=""):
    """A Finding: is the statement true in every compared cell? Names the first exception."""
    good, compared = np.broadcast_arrays(good, compared)
    bad, count = compared & ~good, compared.sum()
    if not count:
        return None
    detail = f"True in {count - bad.sum()} of {count} cells"
    if bad.any():
        detail += f", not at {_place(axes, np.argwhere(bad)[0])}"
    return Finding(figure, statement, "fails" if bad.any() else "holds", f"{detail}.{note}")


def _growth(figure, statement, nfs, axes, axis, note):
    """A Finding: does NFS grow along `axis`? A single step down contradicts it.

    Judged on sqrt(NFS) = |θ_S| / |θ|: at small budgets NFS is below the tolerance while θ_S is
    well above rounding.
    """
    change = np.diff(np.sqrt(nfs), axis=axis)
    rises, falls, flat = change > TOLERANCE, change < -TOLERANCE, np.abs(change) <= TOLERANCE
    steps = np.sum(rises | falls | flat)
    if not steps:
        return None
    start, end = (np.take(nfs, range(i, nfs.shape[axis] - 1 + i), axis) for i in (0, 1))
    zero, one = np.sum(flat & (start <= TOLERANCE)), np.sum(flat & (start >= 1 - TOLERANCE))
    detail = f"Rises in {rises.sum()} of {steps} steps"
    if flat.any():
        detail += f", constant in {flat.sum()} ({zero} at NFS 0, {one} at NFS 1)"
    if falls.any():
        worst = np.unravel_index(np.argmax(np.where(falls, -change, 0)), change.shape)
        name, values = axes[axis]
        detail += (
            f", falls in {falls.sum()}, ε {_span(axes[-1][1][np.argwhere(falls)[:, -1]])}; most at "
            f"{_place(axes, worst)}, where NFS falls from {start[worst]:.3g} to {end[worst]:.3g} "
            f"at {name} {values[worst[axis] + 1]:.4g}"
        )
    return Finding(figure, statement, _verdict(rises.sum(), falls.sum(), steps), f"{detail}.{note}")


def _uses(theta, features):
    return np.max(np.abs(theta[..., features]), axis=-1) > TOLERANCE


def _plateau(nfs, etas, epsilons, onset):
    """Describe where all |θ_i| of the ℓ1 model are equal; count the constant steps there."""
    flat = np.abs(np.diff(np.sqrt(nfs), axis=1)) <= TOLERANCE
    past = flat & (epsilons[1][:-1] >= onset[:, None] - TOLERANCE)
    where = ", ".join(f"{o:.4g} (η {e:.4g})" for o, e in zip(onset, etas[1], strict=True))
    return f" {past.sum()} constant steps where all |θ_i| are equal: from ε {where}."


def _left_out(nfs):
    """Report NFS at η = 0, if the arrays contain it."""
    return f" Left out: η = 0, NFS {np.max(np.nan_to_num(nfs)):.3g}." if nfs.size else ""


def _span(values):
    return f"{np.min(values):.4g} to {np.max(values):.4g}" if len(values) else "nowhere"


def _place(axes, index):
    shown = ((name, values[i]) for (name, values), i in zip(axes, index, strict=True))
    return ", ".join(f"{n} {v if isinstance(v, str) else format(v, '.4g')}" for n, v in shown)
