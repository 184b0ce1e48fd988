"""The records of a suite, looked up by headline, architecture, training norm and budget."""

import math
from typing import NamedTuple

import numpy as np

from advspur._checks import require
from advspur.intervals import NOTHING, Estimate, ratio
from advspur.records import DETAILS

STANDARD = 0.0  # the norm of a model that was not adversarially trained
UNKNOWN = "unknown"  # of one whose training nobody described: never a baseline, in no curve
NORMS = (2.0, math.inf)
RANDOM_MASKS = ", random masks"  # of a recipe, as shown


class Model(NamedTuple):
    """Which model a record is about; `p` is STANDARD if `epsilon` is 0, UNKNOWN if it is None."""

    name: str
    arch: str
    p: float | str
    epsilon: float | None
    seed: int
    rho: float = 0.0  # majority : minority of a colour shift in its training images; 0: none
    recipe: str = ""  # what its training did for its reliance, as shown; such are in no curve
    uniform: float | None = None  # the budget, or that without region weights of its mean square
    weights: tuple = (1.0, 1.0)  # of the budget on the core and on the rest

    @property
    def training(self):
        """How it was trained, as shown."""
        text = training_label(self.p)
        if self.p != UNKNOWN and self.epsilon:
            text = f"{norm_label(self.p)}, ε = {budget_label(self.p, self.epsilon)}"
        text += f", ρ = {self.rho:g}" if self.rho else ""
        return text + (f"; {self.recipe}" if self.recipe else "")


class Suite(NamedTuple):
    """Models and their records; standard models first in an architecture, unknown ones last."""

    models: list
    records: dict  # (model name, benchmark, metric): [Record]

    def archs(self):
        """The architectures of the models of known training."""
        return sorted({m.arch for m in self.models if m.p != UNKNOWN})

    def norms(self):
        """The norms that adversarially trained models exist of."""
        return [p for p in NORMS if any(m.p == p for m in self.models)]

    def unknown(self):
        """The names of the models of unknown training."""
        return [m.name for m in self.models if m.p == UNKNOWN]

    def kinds(self):
        """STANDARD, the norms, UNKNOWN: those that are drawn."""
        known = [STANDARD, *self.norms()] if self.archs() else []
        return known + [UNKNOWN] * bool(self.unknown())

    def matching(self, headline, model):
        """The records of a model with the headline's options (None: absent), or further ones."""
        left_out = DETAILS - headline.options.keys()
        return [
            r
            for r in self.records.get((model, headline.benchmark, headline.metric), [])
            if all(r.options.get(o) == v for o, v in headline.options.items())
            and not left_out & r.options.keys()
        ]

    def estimate(self, headline, model):
        """The Estimate of one model, by name; NaN where nothing is recorded."""
        found = self.matching(headline, model)
        own = estimate_of(found[-1]) if found else NOTHING  # the last written counts
        over = found and headline.over
        return ratio(own, self.estimate(over, model)) if over else own

    def numbers(self, headline, of=lambda model: True):
        """{name: Estimate} of the models with a finite interval."""
        found = {m.name: self.estimate(headline, m.name) for m in self.models if of(m)}
        return {name: e for name, e in found.items() if all(map(math.isfinite, e))}

    def points(self, headline):
        """The `numbers` of the models of unknown training."""
        return self.numbers(headline, lambda model: model.p == UNKNOWN)

    def seeds(self, headline, arch, p):
        """{budget: Estimates of the seeds} of one curve, ascending.

        In the tables only: averaged weights (names with @) and numbers without a finite interval.
        """
        found = {}
        numbers = self.numbers(headline, lambda m: (m.arch, m.p, m.recipe) == (arch, p, ""))
        for m in self.models:
            if m.name in numbers and "@" not in m.name:
                found.setdefault(m.epsilon, []).append(numbers[m.name])
        return found

    def curve(self, headline, arch, p):
        """{budget: mean over seeds}; its interval is the mean of theirs, which share their images.

        The spread over seeds is not in it.
        """
        return {e: mean_estimate(s) for e, s in self.seeds(headline, arch, p).items()}

    def curves(self, headline, p):
        """{architecture: curve}."""
        return {a: self.curve(headline, a, p) for a in self.archs()}

    def of_kind(self, headline, p):
        """The numbers of one of `kinds`: the points of every curve, or every unknown model."""
        if p == UNKNOWN:
            return list(self.points(headline).values())
        return [e for curve in self.curves(headline, p).values() for e in curve.values()]

    def baseline(self, headline, arch):
        """The standard model of an architecture; NaN where there is none."""
        return self.curve(headline, arch, STANDARD).get(0.0, NOTHING)

    def has(self, headline):
        """Whether a figure can show the headline."""
        return any(self.of_kind(headline, p) for p in self.kinds())


def suite_of(records):
    """The Suite of a list of Records.

    Adversarially trained models must differ in architecture, norm, budget or seed. Several
    standard models of one architecture are averaged, as seeds are.
    """
    models, by_number, places = {}, {}, {}
    rhos = {r.model: number(r.options["rho"]) for r in records if "rho" in r.options}
    for r in records:
        p = STANDARD if r.train_epsilon == 0 else UNKNOWN
        if r.train_epsilon and r.train_p is not None:
            p = number(r.train_p)
        rho = 0.0 if p == UNKNOWN else rhos.get(r.model, 0.0)
        uniform = r.recipe.get("uniform_epsilon", r.train_epsilon)
        weights = tuple(r.recipe.get("region_weights", (1.0, 1.0)))
        about = r.seed, rho, recipe_label(r.recipe), uniform, weights
        models[r.model] = model = Model(r.model, r.arch, p, r.train_epsilon, *about)
        if p != UNKNOWN and (r.train_epsilon or rho or r.recipe):
            name = r.model.split("@")[0]
            other = places.setdefault(model[1:], name)
            require(
                other == name,
                f"{other} and {name} have the same architecture, training norm, budget, recipe and "
                "seed: a report shows one of them; evaluate them into two directories with "
                "--workdir=DIR",
            )
        by_number.setdefault((r.model, r.benchmark, r.metric), []).append(r)

    def place(m):
        kind = m.p == UNKNOWN, m.arch, bool(m.recipe), m.p, m.epsilon or 0, m.recipe
        return *kind, m.seed, m.rho, m.name

    return Suite(sorted(models.values(), key=place), by_number)


def estimate_of(record):
    """The Estimate that a Record holds."""
    return Estimate(record.value, record.low, record.high, record.num_examples)


def mean_estimate(estimates):
    """Means of values and of interval ends; NaN of none."""
    if not estimates:
        return NOTHING
    value, low, high, count = np.mean(np.array(estimates, float), axis=0)
    return Estimate(float(value), float(low), float(high), int(count))


def number(p):
    """A norm, or a ratio, as a number (records keep inf as a string)."""
    return math.inf if p == "inf" else float(p)


def norm_label(p):
    """The norm as shown: l2, l∞."""
    return "ℓ∞" if p == math.inf else f"ℓ{p:g}"


def budget_label(p, epsilon, digits=6):
    """The budget as shown: 0.25 or 2/255."""
    return f"{epsilon * 255:.{digits}g}/255" if p == math.inf else f"{epsilon:.{digits}g}"


def training_label(p):
    """A kind of training as shown: standard, ℓ2 AT, unknown."""
    return {STANDARD: "standard", UNKNOWN: UNKNOWN}.get(p) or f"{norm_label(p)} AT"


def recipe_label(recipe):
    """Describe a `recipe` of records, the remedies used in training; "" for none."""
    found = []
    if "region_weights" in recipe:
        found.append("object : rest = {:g} : {:g}".format(*recipe["region_weights"]))
    if "noise_std" in recipe:
        text = "noise {noise_std:g} on the background of {noise_share:.0%} of the images"
        found.append(text.format(**recipe))
    if "mix_share" in recipe:
        found.append("other backgrounds in {mix_share:.0%} of the images".format(**recipe))
    text = ", ".join(found)
    if recipe.get("mask_fault") == "random":
        return text + RANDOM_MASKS
    if "mask_fault" in recipe:
        text += ", masks {mask_fault} by {fault_pixels} pixels".format(**recipe)
    return text


def span(values, form=","):
    """The least and the most of some values as shown: 500, or 100 to 1,000."""
    values = list(values)
    least, most = min(values), max(values)
    return f"{least:{form}}" if least == most else f"{least:{form}} to {most:{form}}"


def options_label(options):
    """Options as shown: family = linf, levels = 0.1176/0.2353."""
    return ", ".join(f"{k} = {_short(v)}" for k, v in options.items())


def _short(value):
    if isinstance(value, list):
        return "/".join(_short(v) for v in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
