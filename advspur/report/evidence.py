"""What single numbers of a model say of what it relies on; no other model is needed."""

import math
from fnmatch import fnmatch

from advspur.report import headlines as h

SPURIOUS, CORE, UNCLEAR = "spurious", "core", "unclear"
EVIDENCE = (  # metrics that tell of one model what it relies on: +1 if larger is more spurious
    ("majority_minority_gap", 1),
    ("background_gap", 1),
    ("*relative_*_sensitivity", -1),
    ("norm_fraction_spurious", 1),
)


def judged_models(suite):
    """The models that the evidence is asked about: those of unknown training, else all."""
    return suite.unknown() or [m.name for m in suite.models]


def evidence(suite):
    """The headlines that tell of a single model what it relies on.

    Not RFS on the embedded data: it does not measure reliance there (docs/results.md).
    """
    own = (x for found in h.own_headlines(suite).values() for x in found)
    names = judged_models(suite)
    return [
        x
        for x in (*h.HEADLINES, *own)
        if x not in h.SHAPES_NOISE and any(points_to(suite, x, name) for name in names)
    ]


def sign_of(headline):
    """+1 if a larger number is more reliance on spurious features, -1 if less; 0 if it is none."""
    return next((s for pattern, s in EVIDENCE if fnmatch(headline.metric, pattern)), 0)


def points_to(suite, headline, name):
    """What one number says of a model: SPURIOUS, CORE or UNCLEAR; "" where it is not there.

    A gap and a relative sensitivity are held against 0, deep NFS against the share of the area
    that is off the core, which it would be if all pixels counted alike.
    """
    if not sign_of(headline):
        return ""
    estimate = suite.estimate(headline, name)
    even = suite.estimate(headline.even, name).value if headline.even else 0.0
    if not all(map(math.isfinite, (*estimate[:3], even))):
        return ""
    low, high = sorted(sign_of(headline) * (x - even) for x in (estimate.low, estimate.high))
    return SPURIOUS if low > 0 else CORE if high < 0 else UNCLEAR
