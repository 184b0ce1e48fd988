"""The headline numbers of the benchmarks: which records they are and how to read them."""

from fnmatch import fnmatch
from typing import NamedTuple

from advspur.records import DETAILS
from advspur.report.suite import budget_label, norm_label, number

TITLES = {
    "imagenet": "ImageNet",
    "imagenet_c": "ImageNet-C",
    "objectnet": "ObjectNet",
    "rival10": "RIVAL10",
    "salient_imagenet": "Salient ImageNet-1M",
    "imagenet9": "ImageNet-9",
    "waterbirds": "Waterbirds",
    "cifar10": "CIFAR-10",
    "cifar_color_shift": "CIFAR-10, colour shift",
}


class Headline(NamedTuple):
    """A number that any model can have, identified by benchmark, metric and some options."""

    name: str
    benchmark: str
    metric: str
    options: dict = {}
    sign: int = 0  # +1: larger means more reliance on spurious features; -1: smaller does
    unit: str = "%"
    over: "Headline | None" = None  # the number is a ratio: this is its denominator
    even: "Headline | None" = None  # its value for a model that uses all regions equally
    paper: tuple = ()  # ((arch, p, epsilon), value) in the paper

    @property
    def title(self):
        return title_of(self.benchmark)

    @property
    def label(self):
        return f"{self.title}: {self.name}"


def title_of(benchmark):
    """The benchmark's title if it is in the paper, else its name."""
    return TITLES.get(benchmark, benchmark)


def background_gaps(benchmark):
    """Headlines: MIXED-SAME minus MIXED-RAND accuracy, and that divided by MIXED-SAME."""
    gap = Headline("background gap", benchmark, "background_gap", {}, 1, "points")
    relative = gap._replace(name=f"relative {gap.name}", metric=f"relative_{gap.metric}", unit="%")
    return gap, relative


def group_accuracies(benchmark, options):
    """Headlines: accuracy where the background agrees with the class, where not, and the gap."""
    return (
        Headline("majority accuracy", benchmark, "majority_accuracy", options),
        Headline("minority accuracy", benchmark, "minority_accuracy", options),
        Headline("majority-minority gap", benchmark, "majority_minority_gap", options, 1, "points"),
    )


def of_masks(benchmark, name, metric):
    """Headlines: sensitivity to attacks on one region, and the share of the gradient off core."""
    attacked = Headline("", benchmark, f"adversarial_{metric}", sign=-1)
    area = Headline("area off the core", benchmark, "spurious_area")
    return (
        attacked._replace(name=f"{name} under ℓ2 attack", options={"p": 2.0}),
        attacked._replace(name=f"{name} under ℓ∞ attack", options={"p": "inf"}),
        Headline("deep NFS", benchmark, "norm_fraction_spurious", sign=1, even=area),
    )


IMAGENET = Headline("accuracy", "imagenet", "accuracy")
IMAGENET_C = Headline("mean accuracy", "imagenet_c", "mean_corruption_accuracy")
OBJECTNET = Headline("accuracy (full)", "objectnet", "accuracy", {"scoring": "full"})
IMAGENET_C_RATIO = IMAGENET_C._replace(name="ratio to ImageNet accuracy", over=IMAGENET)
OBJECTNET_RATIO = OBJECTNET._replace(name=IMAGENET_C_RATIO.name, over=IMAGENET, sign=-1)

RFS_METRIC, RCS_METRIC = "relative_foreground_sensitivity", "relative_core_sensitivity"
RFS = Headline("RFS", "rival10", RFS_METRIC, {"family": "linf"}, -1)
RCS = Headline("RCS", "salient_imagenet", RCS_METRIC, {"family": "linf"}, -1)

BACKGROUND_GAP, RELATIVE_GAP = background_gaps("imagenet9")
RELATIVE_GAP = RELATIVE_GAP._replace(  # the paper, section 4.3
    paper=((("resnet50", 2.0, 5.0), 0.189), (("resnet50", 0.0, 0.0), 0.097))
)
BIRDS = group_accuracies("waterbirds", {"head": "adam"})
GROUP_GAP = BIRDS[2]

COLORS = "cifar_color_shift"
COLORS_CLEAN = Headline("accuracy", COLORS, "accuracy", {"part": "test"})
SHAPES = "spurious_shapes"
AS_IT_IS = {"head": None}  # with the network's own last layer, not a fitted head
SHAPES_CLEAN = Headline("clean accuracy", SHAPES, "accuracy", {"part": "test"} | AS_IT_IS)
SHAPES_NOISE = (
    Headline("RFS (noise of equal deviation)", SHAPES, RFS_METRIC, {"family": "linf"}, -1),
    Headline("RFS (noise of equal length)", SHAPES, RFS_METRIC, {"family": "l2"}, -1),
)
SHAPES_GAPS = tuple(h._replace(options=AS_IT_IS) for h in background_gaps(SHAPES))
SHAPES_GROUPS = group_accuracies(SHAPES, AS_IT_IS)
SHAPES_RELIANCE = (*SHAPES_GAPS, SHAPES_GROUPS[2], *SHAPES_NOISE)

MASKS = (
    of_masks("rival10", "RFS", RFS_METRIC),
    of_masks("salient_imagenet", "RCS", RCS_METRIC),
    of_masks("imagenet9", "RFS", RFS_METRIC),
    of_masks(SHAPES, "RFS", RFS_METRIC),
)

HEADLINES = (
    IMAGENET,
    IMAGENET_C,
    Headline("mCE", "imagenet_c", "mean_corruption_error"),
    IMAGENET_C_RATIO,
    OBJECTNET,
    OBJECTNET._replace(name="accuracy (subset)", options={"scoring": "subset"}),
    OBJECTNET_RATIO,
    Headline("accuracy", "rival10", "accuracy", {"head": "adam"}),
    RFS,
    Headline("accuracy", "salient_imagenet", "accuracy"),
    RCS,
    Headline("accuracy (original)", "imagenet9", "accuracy", {"part": "original"}),
    BACKGROUND_GAP,
    RELATIVE_GAP,
    *BIRDS,
    Headline("worst group", "waterbirds", "worst_group_accuracy", {"head": "adam"}),
    Headline("adjusted average", "waterbirds", "adjusted_average_accuracy", {"head": "adam"}),
    COLORS_CLEAN,
    COLORS_CLEAN._replace(name="majority", metric="majority_accuracy"),
    COLORS_CLEAN._replace(name="minority", metric="minority_accuracy"),
    Headline("accuracy, uninformative colours", COLORS, "accuracy", {"part": "uncorrelated"}),
    SHAPES_CLEAN,
    *SHAPES_GROUPS,
    *SHAPES_GAPS,
    *SHAPES_NOISE,
    *(headline for masks in MASKS for headline in masks),
)

# For benchmarks that are not in the paper: pattern, name ("": the metric's), unit, sign.
OWN_METRICS = (
    ("accuracy", "", "%"),
    ("worst_group_accuracy", "", "%"),
    ("majority_minority_gap", "majority-minority gap", "points", 1),
    ("background_gap", "", "points", 1),
    ("relative_background_gap", "", "%", 1),
    ("relative_*_sensitivity", "", "%", -1),
    ("norm_fraction_spurious", "deep NFS", "%", 1),
    ("pgd_accuracy", "PGD accuracy", "%"),
    ("autoattack_accuracy", "AutoAttack accuracy", "%"),
)
# Options that tell two numbers of one metric apart there, in the order of naming.
DISTINCT = ("p", "epsilon", "family", "part", "scoring", "head", "group")


def own_headlines(suite):
    """{benchmark: its Headlines} for the benchmarks without an entry in HEADLINES."""
    known = {h.benchmark for h in HEADLINES}
    own = sorted({benchmark for _, benchmark, _ in suite.records} - known)
    return {b: [h for metric in OWN_METRICS for h in headlines_of(suite, b, *metric)] for b in own}


def all_headlines(suite):
    """HEADLINES and those of the suite's other benchmarks."""
    return [*HEADLINES, *(h for headlines in own_headlines(suite).values() for h in headlines)]


def headlines_of(suite, benchmark, pattern, name="", unit="%", sign=0):
    """One Headline for each recorded combination of DISTINCT options of matching metrics."""
    found = {}
    for (_, of, metric), records in suite.records.items():
        for r in records if of == benchmark and fnmatch(metric, pattern) else ():
            options = {o: r.options[o] for o in DISTINCT if o in r.options}
            options.setdefault("head", None)  # absent if the model has the classes of the data
            is_detail = (DETAILS - {"epsilon", "group"}) & r.options.keys()
            # Budget 0 is the clean accuracy of the attacked images.
            if not is_detail and options.get("epsilon") != 0:
                named = Headline(name or metric.replace("_", " "), benchmark, metric, options)
                found[metric, *options.items()] = named._replace(unit=unit, sign=sign)
    found = list(found.values())
    if pattern == "norm_fraction_spurious":
        area = Headline("area off the core", benchmark, "spurious_area")
        found = [h._replace(even=area._replace(options=h.options)) for h in found]
    return [h._replace(name=h.name + _differs(h, found)) for h in found]


def _differs(headline, others):
    """The options that tell a headline from the others, as text; budgets always."""
    words, options = [], headline.options
    if "epsilon" in options:
        p = number(options["p"])
        words.append(f"{norm_label(p)} {budget_label(p, options['epsilon'])}")
    for name in DISTINCT[2:]:
        if options.get(name) is not None and len({h.options.get(name) for h in others}) > 1:
            words.append(f"{options[name]} noise" if name == "family" else str(options[name]))
    return f": {', '.join(words)}" if words else ""
