"""The paper's claims about its models, one line each, tested on a suite.

A comparison of two numbers, or a rank correlation, is *clear* if its interval excludes 0.
"holds": every comparison is clear and in the claimed direction; "fails": one is clear and in the
opposite direction; "holds in part": some are clear, none in the opposite direction; else "open".
A claim that states a number holds if the measured interval contains it.
"""

import math
from collections.abc import Callable
from itertools import pairwise, product
from typing import NamedTuple

from advspur.intervals import difference, ratio
from advspur.report import headlines as h
from advspur.report.resampling import count_beyond, rank_correlation
from advspur.report.suite import NORMS, budget_label, mean_estimate, norm_label

PAPER_MODELS = 10  # of each norm: five budgets on two backbones
POINTS = ("Differences in points", 100, 1)  # how estimates are printed: title, scale, digits
CORRELATIONS = ("With the budget", 1, 2)
ROUGHLY = 0.1  # our reading of the paper's "roughly constant": within 10%


class Finding(NamedTuple):
    """A statement about a benchmark or a figure of the paper, its verdict and the evidence."""

    about: str
    statement: str
    verdict: str
    detail: str
    row: str = ""  # its place in the matrix of verdicts; "": not in the matrix
    column: str = ""
    norm: str = ""  # as printed; "": both

    @property
    def kind(self):
        """The verdict without its note."""
        return self.verdict.split(" (")[0]


class Claim(NamedTuple):
    """A sentence about a headline number of the models trained in one norm, or both (None)."""

    text: str  # with {name}, {norm}, {paper}; {larger}, {rise}: towards more reliance
    short: str  # the column of the matrix of verdicts
    judge: Callable  # (suite, claim) -> (verdict, detail); None without the models
    headline: h.Headline
    p: float | None = None
    paper: object = None  # the number of models it counts, or the number it states


def findings(suite, claims):
    """The Findings of the claims that the models of the suite can test."""
    judged = [(c, c.judge(suite, c)) for c in claims]
    return [
        Finding(c.headline.title, _statement(c), *verdict, c.headline.label, c.short, _norm(c))
        for c, verdict in judged
        if verdict
    ]


def _norm(claim):
    return norm_label(claim.p) if claim.p else ""


def _statement(claim):
    larger, rise = ("larger", "rise") if claim.headline.sign > 0 else ("smaller", "fall")
    words = {"name": claim.headline.name, "larger": larger, "rise": rise, "paper": claim.paper}
    return claim.text.format(norm=_norm(claim), **words)


def judge(compared, sign, unit, note="", shown=POINTS):
    """(verdict, detail): does every difference in {arch: [Estimate]} have this sign?

    None if there are no finite differences.
    """
    known = {arch: [d for d in ds if math.isfinite(d.value)] for arch, ds in compared.items()}
    differences = [d for ds in known.values() for d in ds]
    if not differences:
        return None
    toward = sum(sign * d.value > 0 for d in differences)
    up, down = (sum(d.low > 0 for d in differences), sum(d.high < 0 for d in differences))
    clear, against = (up, down) if sign > 0 else (down, up)
    detail = f"{toward} of {len(differences)} {unit} in that direction, {clear} clearly"
    verdict = "holds in part" if clear else "open"
    if against:
        verdict, detail = "fails", f"{detail}, {against} clearly in the opposite direction"
    elif clear == len(differences):
        verdict = "holds"
    return verdict, " ".join(filter(None, [f"{detail}.", note, _listed(known, shown)]))


def _exceeds_standard(suite, claim):
    """Do all models, or as many as the paper counts, exceed the standard one of their kind?"""
    sign = claim.headline.sign
    families = {
        a: (suite.baseline(claim.headline, a), list(curve.values()))
        for a, curve in suite.curves(claim.headline, claim.p).items()
    }
    families = {a: f for a, f in families.items() if f[1] and math.isfinite(f[0].value)}
    if not families:
        return None
    gaps = {a: [difference(m, base) for m in models] for a, (base, models) in families.items()}
    count = count_beyond(families.values(), sign)
    k, n = int(count.value), count.num_examples
    note = f"95% interval of the count: {count.low:.0f} to {count.high:.0f}."
    if claim.paper is None:
        return judge(gaps, sign, "models", note)
    if n == PAPER_MODELS:
        verdict = "holds" if count.low <= claim.paper <= count.high else "fails"
    else:
        verdict = f"open ({k} of {n} models)"
    detail = f"{k} of {n} here; the paper's {claim.paper} holds if the interval contains it."
    return verdict, f"{detail} {note} {_listed(gaps, POINTS)}"


def _steps(suite, claim):
    curves = suite.curves(claim.headline, claim.p).items()
    steps = {a: [difference(y, x) for x, y in pairwise(c.values())] for a, c in curves}
    return judge(steps, claim.headline.sign, "steps between budgets")


def _ranked(suite, claim):
    curves = suite.curves(claim.headline, claim.p).items()
    found = {a: [rank_correlation(c)] for a, c in curves if len(c) > 2}
    return judge(found, claim.headline.sign, "rank correlations", shown=CORRELATIONS)


def _stronger(suite, claim):
    l2, linf = (suite.curves(claim.headline, p) for p in NORMS)
    gaps = {
        a: [difference(*(mean_estimate(list(c[a].values())) for c in (l2, linf)))]
        for a in suite.archs()
        if l2[a] and linf[a]
    }
    return judge(gaps, claim.headline.sign, "comparisons")


def _constant(suite, claim):
    """Does the ratio of each number to its baseline differ from 1 by at most ROUGHLY?"""
    ratios = {}  # by name of the model
    for arch, p in product(suite.archs(), NORMS):
        base = suite.baseline(claim.headline, arch)
        for epsilon, number in suite.curve(claim.headline, arch, p).items():
            name = f"{arch}, {norm_label(p)} {budget_label(p, epsilon)}"
            ratios[name] = ratio(number, base)
    ratios = {name: r for name, r in ratios.items() if math.isfinite(r.value)}
    if not ratios:
        return None
    verdict = "open"
    if any(min(r.high - 1, 1 - r.low) < -ROUGHLY for r in ratios.values()):
        verdict = "fails"
    elif all(max(r.high - 1, 1 - r.low) <= ROUGHLY for r in ratios.values()):
        verdict = "holds"
    name = max(ratios, key=lambda name: abs(ratios[name].value - 1))
    change, low, high = (100 * (x - 1) for x in ratios[name][:3])
    detail = f"Largest relative deviation of {len(ratios)} models: {change:+.1f}% "
    return verdict, f"{detail}[{low:.1f}, {high:.1f}], {name}."


def _equals_stated(suite, claim):
    (arch, p, epsilon), value = claim.paper
    found = suite.curve(claim.headline, arch, p).get(epsilon)
    if found is None:
        return None
    shown = f"{100 * found.value:.1f}% [{100 * found.low:.1f}, {100 * found.high:.1f}]."
    return "holds" if found.low <= value <= found.high else "fails", shown


def _listed(compared, shown):
    """The numbers with intervals, under the architecture's name if there are several."""
    title, scale, digits = shown

    def text(x, sign=""):
        return f"{scale * x:{sign}.{digits}f}"

    groups = {
        arch: ", ".join(f"{text(d.value, '+')} [{text(d.low)}, {text(d.high)}]" for d in found)
        for arch, found in compared.items()
        if found
    }
    named = (f"{a} {numbers}" for a, numbers in groups.items())
    return f"{title}: {'; '.join(groups.values() if len(groups) == 1 else named)}."


# Sentence, column of the matrix of verdicts, judge.
EVERY = (
    "Every {norm} model has a {larger} {name} than the standard one.",
    "every robust model relies more",
    _exceeds_standard,
)
COUNT = (
    "{paper} of 10 {norm} models have a {larger} {name} than the standard model of their "
    "architecture.",
    "as many rely more as in the paper",
    _exceeds_standard,
)
EACH = (
    "The {name} gets {larger} with each larger {norm} budget.",
    "more with each larger budget",
    _steps,
)
RANKED = "The {name} {rise}s with the {norm} budget.", "reliance grows with the budget", _ranked
REVERSED = (
    "The {name} does not fall with the {norm} budget (our reading: it goes the other way).",
    "reliance shrinks with the budget",
    _ranked,
)
STRONGER = (
    "Averaged over the budgets, the {name} is {larger} for ℓ2 than for ℓ∞.",
    "ℓ2 relies more than ℓ∞",
    _stronger,
)
CONSTANT = (
    "The {name} is roughly constant (our reading: within 10% of the standard model of the "
    "architecture, with its interval).",
    "roughly constant",
    _constant,
)
STATED = "the paper's number"
STATED_L2 = "The {name} of the ℓ2 resnet50, ε = 5, is 18.9%.", STATED, _equals_stated
STATED_STANDARD = "The {name} of the standard resnet50 is 9.7%.", STATED, _equals_stated


def _on(headline, *sentences):
    """Claims from these sentences about a headline, in both norms; and that ℓ2 is stronger."""
    return (*(Claim(*s, headline, p) for s in sentences for p in NORMS), Claim(*STRONGER, headline))


CLAIMS = (  # in the order of the page; counts and numbers are of the paper's section 4.3
    Claim(*CONSTANT, h.IMAGENET_C_RATIO),
    *_on(h.OBJECTNET_RATIO, EVERY, RANKED),
    *_on(h.RFS, EVERY, RANKED),
    Claim(*EVERY, h.RCS, 2.0),
    Claim(*RANKED, h.RCS, 2.0),
    Claim(*REVERSED, h.RCS._replace(sign=1), math.inf),
    Claim(*STRONGER, h.RCS),
    Claim(*COUNT, h.BACKGROUND_GAP, 2.0, 9),
    Claim(*COUNT, h.BACKGROUND_GAP, math.inf, 5),
    Claim(*COUNT, h.GROUP_GAP, 2.0, 10),
    Claim(*COUNT, h.GROUP_GAP, math.inf, 6),
    Claim(*STATED_L2, h.RELATIVE_GAP, paper=h.RELATIVE_GAP.paper[0]),
    Claim(*STATED_STANDARD, h.RELATIVE_GAP, paper=h.RELATIVE_GAP.paper[1]),
    *_on(h.BACKGROUND_GAP, RANKED),
    *_on(h.RELATIVE_GAP, RANKED),
    *_on(h.GROUP_GAP, RANKED),
    *(c for shown in h.SHAPES_RELIANCE for c in _on(shown, EVERY, EACH, RANKED)),
)
MASK_CLAIMS = tuple(c for masks in h.MASKS for m in masks for c in _on(m, EVERY, RANKED))
