"""What a single number says about the features a model relies on, without another model."""

import math

from advspur.report import headlines as h

SPURIOUS, CORE, UNCLEAR = "spurious", "core", "unclear"


def judged_models(suite):
    """The names of the models of unknown training; of all models if there are none."""
    return suite.unknown() or [m.name for m in suite.models]


def evidence(suite):
    """The headlines that show what a single model relies on.

    Leaves out RFS on the embedded data, where it does not measure reliance (docs/results.md), and
    the relative background gap, which only repeats the gap.
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

    A gap or a relative sensitivity is compared with 0; deep NFS with the share of the area off the
    core, its value if all pixels had equal gradients.
    """
    if not headline.sign or headline.over:  # a ratio has no such reference
        return ""
    estimate = suite.estimate(headline, name)
    even = suite.estimate(headline.even, name).value if headline.even else 0.0
    if not all(map(math.isfinite, (*estimate[:3], even))):
        return ""
    low, high = sorted(headline.sign * (x - even) for x in (estimate.low, estimate.high))
    return SPURIOUS if low > 0 else CORE if high < 0 else UNCLEAR
