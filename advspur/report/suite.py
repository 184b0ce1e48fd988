"""The records of a set of models, looked up by headline, architecture, norm and budget."""

import math
from typing import NamedTuple

import numpy as np

from advspur._checks import require
from advspur.intervals import NOTHING, Estimate, ratio
from advspur.records import DETAILS

STANDARD = 0.0  # stands for the norm of a model that was not adversarially trained
UNKNOWN = "unknown"  # for one whose training was not described: in no curve, never a baseline
NORMS = (2.0, math.inf)
RANDOM_MASKS = ", random masks"  # ends the label of a recipe with random masks


class Model(NamedTuple):
    """How a model was trained; `p` is STANDARD if `epsilon` is 0, UNKNOWN if it is None."""

    name: str
    arch: str
    p: float | str
    epsilon: float | None
    seed: int
    rho: float = 0.0  # majority : minority of the colour shift in its training images; 0: none
    recipe: str = ""  # label of its remedies; models with a recipe are in no curve
    uniform: float | None = None  # the uniform budget with the same mean square over the pixels
    weights: tuple = (1.0, 1.0)  # of the budget on the core and on the rest

    @property
    def training(self):
        """How it was trained, as printed."""
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
        """The norms of the adversarially trained models."""
        return [p for p in NORMS if any(m.p == p for m in self.models)]

    def unknown(self):
        """The names of the models of unknown training."""
        return [m.name for m in self.models if m.p == UNKNOWN]

    def kinds(self):
        """The kinds of training that are drawn: STANDARD, the norms, UNKNOWN."""
        known = [STANDARD, *self.norms()] if self.archs() else []
        return known + [UNKNOWN] * bool(self.unknown())

    def matching(self, headline, model):
        """A model's records with the headline's options (None: absent) and no other DETAILS."""
        left_out = DETAILS - headline.options.keys()
        return [
            r
            for r in self.records.get((model, headline.benchmark, headline.metric), [])
            if all(r.options.get(o) == v for o, v in headline.options.items())
            and not left_out & r.options.keys()
        ]

    def estimate(self, headline, model):
        """The Estimate of one model, by name; NaN where nothing is recorded."""
        records = self.matching(headline, model)
        if not records:
            return NOTHING
        measured = estimate_of(records[-1])  # the last written counts
        over = headline.over
        return ratio(measured, self.estimate(over, model)) if over else measured

    def numbers(self, headline, of=lambda model: True):
        """{name: Estimate} of the models for which `of` is true and the interval is finite."""
        numbers = {m.name: self.estimate(headline, m.name) for m in self.models if of(m)}
        return {name: e for name, e in numbers.items() if all(map(math.isfinite, e))}

    def points(self, headline):
        """The `numbers` of the models of unknown training."""
        return self.numbers(headline, lambda model: model.p == UNKNOWN)

    def seeds(self, headline, arch, p):
        """{budget: Estimates of the seeds} of one curve, ascending.

        Averaged weights (names with @) and numbers without a finite interval are left to tables.
        """
        by_budget = {}
        numbers = self.numbers(headline, lambda m: (m.arch, m.p, m.recipe) == (arch, p, ""))
        for m in self.models:
            if m.name in numbers and "@" not in m.name:
                by_budget.setdefault(m.epsilon, []).append(numbers[m.name])
        return by_budget

    def curve(self, headline, arch, p):
        """{budget: mean over seeds}, with the mean of their intervals over the same images.

        The interval does not include variation between seeds.
        """
        return {e: mean_estimate(s) for e, s in self.seeds(headline, arch, p).items()}

    def curves(self, headline, p):
        """{architecture: curve}."""
        return {a: self.curve(headline, a, p) for a in self.archs()}

    def of_kind(self, headline, p):
        """The numbers of one of `kinds`: all points of its curves, or all unknown models."""
        if p == UNKNOWN:
            return list(self.points(headline).values())
        return [e for curve in self.curves(headline, p).values() for e in curve.values()]

    def baseline(self, headline, arch):
        """The number of the standard model of an architecture; NaN if there is none."""
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
                "seed, and a report shows only one such model: evaluate them into two directories "
                "with --workdir=DIR",
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
    """The mean of the values and of the interval ends; NaN without any."""
    if not estimates:
        return NOTHING
    value, low, high, count = np.mean(np.array(estimates, float), axis=0)
    return Estimate(float(value), float(low), float(high), int(count))


def number(p):
    """A norm or a ratio as a number (records write infinity as "inf")."""
    return math.inf if p == "inf" else float(p)


def norm_label(p):
    """The norm as printed: ℓ2, ℓ∞."""
    return "ℓ∞" if p == math.inf else f"ℓ{p:g}"


def budget_label(p, epsilon, digits=6):
    """The budget as printed: 0.25 or 2/255."""
    return f"{epsilon * 255:.{digits}g}/255" if p == math.inf else f"{epsilon:.{digits}g}"


def training_label(p):
    """A kind of training as printed: standard, ℓ2 AT, unknown."""
    return {STANDARD: "standard", UNKNOWN: UNKNOWN}.get(p) or f"{norm_label(p)} AT"


def recipe_label(recipe):
    """Describe the remedies used in training, the `recipe` of a record; "" for none."""
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
    """The least and greatest value as printed: 500, or 100 to 1,000."""
    values = list(values)
    least, most = min(values), max(values)
    return f"{least:{form}}" if least == most else f"{least:{form}} to {most:{form}}"


def options_label(options):
    """Options as printed: family = linf, levels = 0.1176/0.2353."""
    return ", ".join(f"{k} = {_short(v)}" for k, v in options.items())


def _short(value):
    if isinstance(value, list):
        return "/".join(_short(v) for v in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
