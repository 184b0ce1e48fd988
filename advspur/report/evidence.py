"""What single numbers of a model say of what it relies on; no other model is needed."""

import math

from advspur.report import headlines as h

SPURIOUS, CORE, UNCLEAR = "spurious", "core", "unclear"


def judged_models(suite):
    """The models that the evidence is asked about: those of unknown training, else all."""
    return suite.unknown() or [m.name for m in suite.models]


def evidence(suite):
    """The headlines that say of a single model what it relies on.

    Not RFS on the embedded data, which does not measure reliance there (docs/results.md), and no
    relative background gap, which says what the gap says.
    """
    names = judged_models(suite)
    return [
        x
        for x in h.all_headlines(suite)
        if x not in h.SHAPES_NOISE and x.metric != h.RELATIVE_GAP.metric
        if any(points_to(suite, x, name) for name in names)
    ]


def points_to(suite, headline, name):
    """Return SPURIOUS, CORE or UNCLEAR, what one number points to; "" if it is not recorded.

    A gap and a relative sensitivity are held against 0, deep NFS against the share of the area
    that is off the core, which it would be if all pixels counted alike.
    """
    if not headline.sign or headline.over:  # a ratio has no such reference
        return ""
    estimate = suite.estimate(headline, name)
    even = suite.estimate(headline.even, name).value if headline.even else 0.0
    if not all(map(math.isfinite, (*estimate[:3], even))):
        return ""
    low, high = sorted(headline.sign * (x - even) for x in (estimate.low, estimate.high))
    return SPURIOUS if low > 0 else CORE if high < 0 else UNCLEAR
