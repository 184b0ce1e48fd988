"""Benchmarks that the paper does not have, such as users' own data: what to show of them.

Their names, parts and groups are not known beforehand, so the headlines are made from the records.
"""

from fnmatch import fnmatch

from advspur.records import DETAILS
from advspur.report.headlines import HEADLINES, TITLES, Headline
from advspur.report.panels import by_model
from advspur.report.suite import budget_label, norm_label, number

METRICS = (  # pattern, name ("": its own words), unit
    ("accuracy", "", "%"),
    ("worst_group_accuracy", "", "%"),
    ("majority_minority_gap", "majority-minority gap", "points"),
    ("background_gap", "", "points"),
    ("relative_background_gap", "", "%"),
    ("relative_*_sensitivity", "", "%"),
    ("norm_fraction_spurious", "deep NFS", "%"),
    ("pgd_accuracy", "PGD accuracy", "%"),
    ("autoattack_accuracy", "AutoAttack accuracy", "%"),
)
# Options in which two numbers of one metric differ, in the order in which they are named.
DISTINCT = ("p", "epsilon", "family", "part", "scoring", "head", "group")


def own_headlines(suite):
    """{benchmark: its headline Headlines} of the benchmarks that no headline of the paper is on."""
    found = sorted({benchmark for _, benchmark, _ in suite.records})
    own = [b for b in found if b not in {m.benchmark for m in HEADLINES}]
    return {b: [m for metric in METRICS for m in _headlines(suite, b, *metric)] for b in own}


def own_figures(suite):
    """(file name, title, kind of panels, headlines, caption) of each figure of such benchmarks."""
    for index, (benchmark, chosen) in enumerate(own_headlines(suite).items(), start=1):
        title, groups = TITLES.get(benchmark, benchmark), _headlines(suite, benchmark)
        yield f"own{index}_models", f"{title}: by model", by_model, chosen, "Headline numbers."
        yield f"own{index}_groups", f"{title}: by group", by_model, groups, "Accuracy by group."


def _headlines(suite, benchmark, pattern="group_accuracy", name="", unit="%"):
    """A Measure for each combination of DISTINCT options that the metrics are recorded with."""
    found = {}
    for (_, of, metric), records in suite.records.items():
        for r in records if of == benchmark and fnmatch(metric, pattern) else ():
            options = {o: r.options[o] for o in DISTINCT if o in r.options}
            options.setdefault("head", None)  # a model with the classes of the data has none
            is_detail = (DETAILS - {"epsilon", "group"}) & r.options.keys()
            # At budget 0 stands the clean accuracy of the images that are attacked.
            if not is_detail and options.get("epsilon") != 0:
                called = name or metric.replace("_", " ")
                found[metric, *options.items()] = Headline(
                    called, benchmark, metric, options, 0, unit
                )
    headlines = list(found.values())
    if pattern == "norm_fraction_spurious":
        area = Headline("area off the core", benchmark, "spurious_area", {})
        headlines = [m._replace(even=area._replace(options=m.options)) for m in headlines]
    return [m._replace(name=m.name + _differs(m, headlines)) for m in headlines]


def _differs(headline, others):
    """The options in which a headline differs from the others, as a text; budgets always."""
    words, options = [], headline.options
    if "epsilon" in options:
        p = number(options["p"])
        words.append(f"{norm_label(p)} {budget_label(p, options['epsilon'])}")
    for name in DISTINCT[2:]:
        if options.get(name) is not None and len({m.options.get(name) for m in others}) > 1:
            words.append(f"{options[name]} noise" if name == "family" else str(options[name]))
    return f": {', '.join(words)}" if words else ""
