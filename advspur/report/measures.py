"""The headline numbers of the benchmarks: where their records are and how to read them."""

from typing import NamedTuple

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


class Measure(NamedTuple):
    """One number of a model, looked up by benchmark, metric and some of its options."""

    name: str
    benchmark: str
    metric: str
    options: dict
    sign: int = 0  # +1: larger means more reliance on what is spurious; -1: smaller does
    unit: str = "%"
    over: "Measure | None" = None  # the number is the ratio to this one of the same model
    even: "Measure | None" = None  # what it would be of a model that tells no regions apart
    paper: tuple = ()  # ((arch, p, epsilon), value): what the paper states

    @property
    def title(self):
        """The benchmark as its authors write it."""
        return TITLES.get(self.benchmark, self.benchmark)


def background_gaps(benchmark):
    """MIXED-SAME minus MIXED-RAND accuracy, and that as a share of MIXED-SAME."""
    return (
        Measure("background gap", benchmark, "background_gap", {}, 1, "points"),
        Measure("relative background gap", benchmark, "relative_background_gap", {}, 1),
    )


def group_accuracies(benchmark, options):
    """Accuracy where the background agrees with the class, where not, and the difference."""
    return (
        Measure("majority accuracy", benchmark, "majority_accuracy", options),
        Measure("minority accuracy", benchmark, "minority_accuracy", options),
        Measure("majority-minority gap", benchmark, "majority_minority_gap", options, 1, "points"),
    )


def of_masks(benchmark, name, metric):
    """Sensitivity to attacks on one region, and the share of the gradient off the core."""
    attacked = (
        Measure(f"{name} under ℓ{label} attack", benchmark, f"adversarial_{metric}", {"p": p}, -1)
        for p, label in ((2.0, "2"), ("inf", "∞"))
    )
    area = Measure("area off the core", benchmark, "spurious_area", {})
    return (*attacked, Measure("deep NFS", benchmark, "norm_fraction_spurious", {}, 1, even=area))


IMAGENET = Measure("accuracy", "imagenet", "accuracy", {})
IMAGENET_C = Measure("mean accuracy", "imagenet_c", "mean_corruption_accuracy", {})
OBJECTNET = Measure("accuracy (full)", "objectnet", "accuracy", {"scoring": "full"})
IMAGENET_C_RATIO = IMAGENET_C._replace(name="ratio to ImageNet accuracy", over=IMAGENET)
OBJECTNET_RATIO = OBJECTNET._replace(name=IMAGENET_C_RATIO.name, over=IMAGENET, sign=-1)

RFS_METRIC, RCS_METRIC = "relative_foreground_sensitivity", "relative_core_sensitivity"
RFS = Measure("RFS", "rival10", RFS_METRIC, {"family": "linf"}, -1)
RCS = Measure("RCS", "salient_imagenet", RCS_METRIC, {"family": "linf"}, -1)

BACKGROUND_GAP, RELATIVE_GAP = background_gaps("imagenet9")
RELATIVE_GAP = RELATIVE_GAP._replace(  # the paper, section 4.3
    paper=((("resnet50", 2.0, 5.0), 0.189), (("resnet50", 0.0, 0.0), 0.097))
)
BIRDS = group_accuracies("waterbirds", {"head": "adam"})
GROUP_GAP = BIRDS[2]

# What is shown together.
SHIFTS = (IMAGENET_C_RATIO, OBJECTNET_RATIO)
NOISE = (RFS, RCS)
GAPS = (BACKGROUND_GAP, RELATIVE_GAP)
SNAPSHOT = (*NOISE, *GAPS, GROUP_GAP, OBJECTNET_RATIO)

COLORS = "cifar_color_shift"
SHAPES = "spurious_shapes"
SHAPES_CLEAN = Measure("clean accuracy", SHAPES, "accuracy", {"part": "test"})
SHAPES_NOISE = (
    Measure("RFS (noise of equal deviation)", SHAPES, RFS_METRIC, {"family": "linf"}, -1),
    Measure("RFS (noise of equal length)", SHAPES, RFS_METRIC, {"family": "l2"}, -1),
)
SHAPES_GAPS = background_gaps(SHAPES)
SHAPES_GROUPS = group_accuracies(SHAPES, {})
SHAPES_RELIANCE = (*SHAPES_GAPS, SHAPES_GROUPS[2], *SHAPES_NOISE)
SHAPES_SNAPSHOT = (SHAPES_CLEAN, SHAPES_GROUPS[1], *SHAPES_GAPS, SHAPES_NOISE[0])

MASKS = {
    benchmark: of_masks(benchmark, name, metric)
    for benchmark, name, metric in (
        ("rival10", "RFS", RFS_METRIC),
        ("salient_imagenet", "RCS", RCS_METRIC),
        ("imagenet9", "RFS", RFS_METRIC),
        (SHAPES, "RFS", RFS_METRIC),
    )
}

HEADLINES = (
    IMAGENET,
    IMAGENET_C,
    Measure("mCE", "imagenet_c", "mean_corruption_error", {}),
    IMAGENET_C_RATIO,
    OBJECTNET,
    OBJECTNET._replace(name="accuracy (subset)", options={"scoring": "subset"}),
    OBJECTNET_RATIO,
    Measure("accuracy", "rival10", "accuracy", {}),
    RFS,
    Measure("accuracy", "salient_imagenet", "accuracy", {}),
    RCS,
    Measure("accuracy (original)", "imagenet9", "accuracy", {"part": "original"}),
    *GAPS,
    *BIRDS,
    Measure("worst group", "waterbirds", "worst_group_accuracy", {"head": "adam"}),
    Measure("adjusted average", "waterbirds", "adjusted_average_accuracy", {"head": "adam"}),
    *(
        Measure(name, COLORS, f"{group}accuracy", {"part": "test"})
        for name, group in (("accuracy", ""), ("majority", "majority_"), ("minority", "minority_"))
    ),
    Measure("accuracy, colours that tell nothing", COLORS, "accuracy", {"part": "uncorrelated"}),
    SHAPES_CLEAN,
    *SHAPES_GROUPS,
    *SHAPES_GAPS,
    *SHAPES_NOISE,
    *(measure for masks in MASKS.values() for measure in masks),
)
