"""Benchmarks that the paper does not have, such as users' own data: what to show of them.

Their names, parts and groups are not known beforehand, so the measures are made from the records.
"""

from fnmatch import fnmatch

from advspur.records import DETAILS
from advspur.report.measures import HEADLINES, Measure
from advspur.report.panels import by_model
from advspur.report.suite import budget_label, norm_label, number

HEADLINE_METRICS = {  # pattern: unit
    "accuracy": "%",
    "worst_group_accuracy": "%",
    "majority_minority_gap": "points",
    "background_gap": "points",
    "relative_background_gap": "%",
    "relative_*_sensitivity": "%",
    "norm_fraction_spurious": "%",
    "pgd_accuracy": "%",
    "autoattack_accuracy": "%",
}
NAMES = {
    "norm_fraction_spurious": "deep NFS",
    "pgd_accuracy": "PGD accuracy",
    "autoattack_accuracy": "AutoAttack accuracy",
}
# Options that make two numbers of a metric different ones, in the order in which they are named.
DISTINCT = ("p", "epsilon", "family", "part", "scoring", "head", "group")
MODELS = "Every model's numbers with their 95% intervals."
GROUPS = "Accuracy of each group of images, with 95% intervals."


def own_measures(suite):
    """The headline Measures of all benchmarks that the paper does not have."""
    return [
        measure
        for benchmark in own_benchmarks(suite)
        for pattern, unit in HEADLINE_METRICS.items()
        for measure in _measures(suite, benchmark, pattern, unit)
    ]


def own_figures(suite):
    """(file name, title, kind of panels, measures, caption) of each figure of such benchmarks."""
    headlines = own_measures(suite)
    for index, benchmark in enumerate(own_benchmarks(suite), start=1):
        chosen = [m for m in headlines if m.benchmark == benchmark]
        groups = _measures(suite, benchmark, "group_accuracy", "%")
        title = (chosen or groups or [Measure("", benchmark, "", {})])[0].title
        yield f"own{index}_models", f"{title}: by model", by_model, chosen, MODELS
        yield f"own{index}_groups", f"{title}: by group", by_model, groups, GROUPS


def own_benchmarks(suite):
    """The names of the benchmarks with records that no headline of the paper is about."""
    known = {m.benchmark for m in HEADLINES}
    return sorted({benchmark for _, benchmark, _ in suite.records} - known)


def _measures(suite, benchmark, pattern, unit):
    """A Measure for each combination of DISTINCT options that the metrics are recorded with."""
    found = {}
    for (_, of, metric), records in suite.records.items():
        for r in records if of == benchmark and fnmatch(metric, pattern) else ():
            options = {name: r.options[name] for name in DISTINCT if name in r.options}
            is_detail = (DETAILS - {"epsilon", "group"}) & r.options.keys()
            # At budget 0 stands the clean accuracy of the images that are attacked.
            if not is_detail and options.get("epsilon") != 0:
                found[metric, *options.items()] = Measure(metric, benchmark, metric, options)
    measures = list(found.values())
    return [m._replace(name=_name(m, measures), unit=unit, even=_area(m)) for m in measures]


def _name(measure, others):
    """What the metric is called, and the options in which it differs from the others."""
    words, options = [], measure.options
    if "epsilon" in options:
        p = number(options["p"])
        words.append(f"{norm_label(p)} {budget_label(p, options['epsilon'])}")
    for name in DISTINCT[2:]:
        if name in options and len({m.options.get(name) for m in others}) > 1:
            words.append(f"{options[name]} noise" if name == "family" else str(options[name]))
    called = NAMES.get(measure.metric, measure.metric.replace("_", " "))
    return ", ".join([called, *words])


def _area(measure):
    if measure.metric == "norm_fraction_spurious":
        return Measure("area off the core", measure.benchmark, "spurious_area", measure.options)
    return None
