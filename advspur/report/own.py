"""Benchmarks that the paper does not have, such as users' own data: what to show of them.

Their names, parts and groups are not known beforehand, so the headlines are made from the records.
"""

from fnmatch import fnmatch

from advspur.records import DETAILS
from advspur.report.headlines import HEADLINES, Headline, title_of
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
    """{benchmark: its Headlines} of the benchmarks that no headline of the paper is on."""
    known = {h.benchmark for h in HEADLINES}
    own = sorted({benchmark for _, benchmark, _ in suite.records} - known)
    return {b: [h for metric in METRICS for h in _headlines(suite, b, *metric)] for b in own}


def own_figures(suite):
    """(file name, title, kind of panels, headlines, caption) of each figure of such benchmarks."""
    for index, (benchmark, chosen) in enumerate(own_headlines(suite).items(), start=1):
        title, groups = title_of(benchmark), _headlines(suite, benchmark, "group_accuracy")
        yield f"own{index}_models", f"{title}: by model", by_model, chosen, "Headline numbers."
        yield f"own{index}_groups", f"{title}: by group", by_model, groups, "Accuracy by group."


def _headlines(suite, benchmark, pattern, name="", unit="%"):
    """A Headline for each combination of DISTINCT options that the metrics are recorded with."""
    found = {}
    for (_, of, metric), records in suite.records.items():
        for r in records if of == benchmark and fnmatch(metric, pattern) else ():
            options = {o: r.options[o] for o in DISTINCT if o in r.options}
            options.setdefault("head", None)  # a model with the classes of the data has none
            is_detail = (DETAILS - {"epsilon", "group"}) & r.options.keys()
            # At budget 0 stands the clean accuracy of the images that are attacked.
            if not is_detail and options.get("epsilon") != 0:
                named = Headline(name or metric.replace("_", " "), benchmark, metric, options)
                found[metric, *options.items()] = named._replace(unit=unit)
    found = list(found.values())
    if pattern == "norm_fraction_spurious":
        area = Headline("area off the core", benchmark, "spurious_area")
        found = [h._replace(even=area._replace(options=h.options)) for h in found]
    return [h._replace(name=h.name + _differs(h, found)) for h in found]


def _differs(headline, others):
    """The options in which a headline differs from the others, as a text; budgets always."""
    words, options = [], headline.options
    if "epsilon" in options:
        p = number(options["p"])
        words.append(f"{norm_label(p)} {budget_label(p, options['epsilon'])}")
    for name in DISTINCT[2:]:
        if options.get(name) is not None and len({h.options.get(name) for h in others}) > 1:
            words.append(f"{options[name]} noise" if name == "family" else str(options[name]))
    return f": {', '.join(words)}" if words else ""
