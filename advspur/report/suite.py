"""The records of a suite, looked up by training norm and budget."""

import math
from typing import NamedTuple

import numpy as np

from advspur.records import Estimate

NORMS = (2.0, math.inf)


class Suite(NamedTuple):
    """Records of models of one architecture, trained at several budgets and seeds."""

    records: list

    def budgets(self, p):
        """Training budgets of norm `p`, ascending, without the standard model."""
        found = {r.train_epsilon for r in self.records if number(r.train_p) == p}
        return sorted(found - {0.0})

    def norms(self):
        """The norms that adversarially trained models exist of."""
        return [p for p in NORMS if self.budgets(p)]

    def models(self):
        """Model names: standard first, then by norm and budget."""
        order = {
            r.model: (r.train_epsilon > 0, number(r.train_p), r.train_epsilon, r.seed)
            for r in self.records
        }
        return sorted(order, key=order.get)

    def of_seeds(self, metric, p, epsilon, /, **options):
        """[(seed, Estimate)] of the models of one budget; epsilon 0 is the standard model."""
        return sorted(
            (r.seed, Estimate(r.value, r.low, r.high, r.num_examples))
            for r in self.records
            if r.metric == metric
            and r.train_epsilon == epsilon
            and (epsilon == 0 or number(r.train_p) == p)
            and "@" not in r.model
            and "level" not in r.options  # numbers of one noise level: in the table only
            and all(r.options.get(k) == v for k, v in options.items())
        )

    def mean(self, metric, p, epsilon, /, **options):
        """The mean over seeds; NaN where nothing is recorded.

        Its interval is the mean of the intervals: the models share their test images, so
        averaging shrinks nothing that could be relied on. Spread over seeds is not in it.
        """
        return mean_estimate([e for _, e in self.of_seeds(metric, p, epsilon, **options)])


def mean_estimate(estimates):
    """Means of values and of interval ends."""
    if not estimates:
        return Estimate(math.nan, math.nan, math.nan, 0)
    value, low, high, count = np.mean(np.array(estimates, float), axis=0)
    return Estimate(float(value), float(low), float(high), int(count))


def difference(a, b):
    """a - b with the interval joined from both as if independent (Newcombe's MOVER).

    Conservative for models compared on the same images, whose outcomes go together.
    """
    gap = a.value - b.value
    low = gap - math.hypot(a.value - a.low, b.high - b.value)
    high = gap + math.hypot(a.high - a.value, b.value - b.low)
    return Estimate(gap, low, high, min(a.num_examples, b.num_examples))


def number(p):
    """The norm as a number (records keep inf as a string)."""
    return math.inf if p == "inf" else float(p)


def norm_label(p):
    """The norm as shown: l2, l∞."""
    return "ℓ∞" if p == math.inf else f"ℓ{p:g}"


def budget_label(p, epsilon):
    """The budget as shown: 0.25 or 2/255."""
    return f"{epsilon * 255:g}/255" if p == math.inf else f"{epsilon:g}"
