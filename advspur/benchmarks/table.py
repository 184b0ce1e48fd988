"""The rows of the paper: which data, which head, which measures, and with what options."""

from advspur import heads
from advspur.benchmarks.row import Benchmark
from advspur.data.imagenet_c import ALEXNET_ERRORS
from advspur.data.label_maps import IMAGENET9, NUM_IMAGENET_CLASSES
from advspur.data.readers import READERS
from advspur.data.spurious_shapes import MEASURED as SHAPES_PARTS

# Budgets for adversarially trained models, as multiples of their training budget.
ROBUST_BUDGETS = (0.5, 1.0, 2.0)
CORE = ("foreground", "background")  # RIVAL10's names of the core and of the rest
# RIVAL10's levels of noise (Moayeri et al., CVPR 2022).
RIVAL10_NOISE = {
    "names": CORE,
    "linf_noise_levels": tuple(k / 255 for k in (30, 60, 90, 120, 150, 180, 210)),
    "l2_noise_levels": tuple(25.0 * k for k in range(1, 9)),
    "trials": 1,
}
UNKNOWN = ("unknown", None)  # `dataset` of models whose training data are not known


def _models(*classes, features=False, image_size=224):
    """Return `Benchmark.fits` for models with one of these numbers of classes; (): any number.

    Models trained on spurious_shapes are measured on nothing else. Our own networks take images of
    any size.
    """

    def fits(facts):
        side, fault = None if "stem" in facts else facts.get("image_size"), ""
        if facts.get("shapes"):
            fault = f"it was trained on {facts['dataset']}"
        elif classes and facts["num_classes"] not in classes:
            fault = f"it has {facts['num_classes']} classes, not {' or '.join(map(str, classes))}"
        elif features and not facts.get("has_features", True):
            fault = "it has no features for a probe"
        elif side not in (None, image_size):
            fault = f"it takes {side} x {side} images, not {image_size} x {image_size}"
        return fault, {}

    return fits


def _trained_on_cifar10(facts):
    if facts["dataset"] not in ("cifar10", *UNKNOWN):
        return f"it was trained on {facts['dataset']}", {}
    return _models(10, image_size=32)(facts)


def _trained_with_color_shift(facts):
    """Use the model's colour shift, and budgets relative to its training budget."""
    dataset, color_shift = facts["dataset"], facts.get("color_shift")
    if dataset in UNKNOWN:
        return "it is not known how it was trained", {}
    if dataset != "cifar10" or not color_shift:
        without = " without a colour shift" if dataset == "cifar10" else ""
        return f"it was trained on {dataset}{without}", {}
    options, epsilon = {"data": {"color_shift": color_shift}}, facts["train_epsilon"]
    if epsilon:  # the budgets for standard models are too small to show anything
        epsilons, is_l2 = tuple(epsilon * f for f in ROBUST_BUDGETS), float(facts["train_p"]) == 2
        budgets = {"l2_epsilons": (), "linf_epsilons": ()}
        budgets["l2_epsilons" if is_l2 else "linf_epsilons"] = epsilons
        options |= {"pgd": budgets, "autoattack": budgets}
    return "", options


def _trained_on_shapes(facts):
    """Use the options of the shapes that the model was trained on."""
    if facts.get("shapes"):
        return "", {"data": {"shapes": facts["shapes"]}}
    return f"it was trained on other data ({facts['dataset']})", {}


def _row(name, measures, options, **more):
    return Benchmark(name, READERS[name], measures, options, **more)


_IMAGENET = _models(NUM_IMAGENET_CLASSES)
_PROBED = {
    "parts": lambda parts: ("test",),
    "head": heads.probes,
    "plan_head": heads.plan_probes,
    "fits": _models(features=True),
}
_MASKED = ("accuracy", "regions")
_ORIGINAL = {"parts": ("original",)}
_FIRST = {"images": "first", "parts": ("test",)}
_BUDGETS = {"linf_epsilons": (8 / 255,), "l2_epsilons": (0.5,), "l1_epsilons": (12.0,)}
_SMALL_BUDGETS = {
    "l2_epsilons": (0.05, 0.1, 0.15, 0.2, 0.25),
    "linf_epsilons": (0.25 / 255, 0.5 / 255, 0.75 / 255, 1 / 255),
}
_RATES = {"learning_rate": 5e-4, "sensitivity_learning_rates": (1e-5, 1e-4, 1e-3)}
_ROWS = (
    _row(
        "imagenet",
        ("accuracy",),
        {"accuracy": {"subsets": ("objectnet",)}, "autoattack": {"num_images": 5000}},
        fits=_IMAGENET,
    ),
    _row(
        "imagenet_c",
        ("accuracy", "corruptions"),
        {"corruptions": {"baseline_errors": ALEXNET_ERRORS}},
        fits=_IMAGENET,
    ),
    _row(
        "objectnet",
        ("accuracy",),
        {"accuracy": {"balanced": True}},
        head=heads.objectnet_scorings,
        fits=_IMAGENET,
    ),
    _row("rival10", _MASKED, {"regions": RIVAL10_NOISE}, **_PROBED),
    _row("salient_imagenet", _MASKED, {"regions": {"dilation_rounds": 15}}, fits=_IMAGENET),
    _row(
        "imagenet9",
        ("accuracy", "background_gaps", "regions"),
        {
            "regions": {"names": CORE, "linf_noise_levels": (), "trials": 1} | _ORIGINAL,
            "pgd": _ORIGINAL,
            "autoattack": _ORIGINAL,
        },
        head=heads.superclasses,
        fits=_models(NUM_IMAGENET_CLASSES, len(IMAGENET9)),
    ),
    _row("waterbirds", ("accuracy", "groups"), {"head": _RATES | {"with_lbfgs": True}}, **_PROBED),
    _row(
        "cifar10",
        ("accuracy",),
        {"autoattack": {"images": "first", "batch_size": 250} | _BUDGETS},
        fits=_trained_on_cifar10,
    ),
    _row(
        "cifar_color_shift",
        ("accuracy", "groups", "pgd"),
        {
            "pgd": _SMALL_BUDGETS
            | {"num_attacked": 10_000, "images": "first", "num_steps": 20, "start": "ball"},
            "autoattack": _FIRST | _SMALL_BUDGETS | {"batch_size": 250},
        },
        fits=_trained_with_color_shift,
    ),
    _row(
        "spurious_shapes",
        ("accuracy", "groups", "background_gaps", "pgd", "regions"),
        {
            "groups": {"parts": ("test",)},
            "pgd": _FIRST
            | {
                "l2_epsilons": (0.125, 0.25, 0.5),
                "linf_epsilons": (1 / 255, 2 / 255, 4 / 255),
                "num_steps": 20,
            },
            "regions": RIVAL10_NOISE
            | {
                "l2_noise_levels": (25.0, 50.0, 100.0, 200.0),
                "l2_epsilons": (0.25, 0.5),
                "linf_epsilons": (2 / 255, 4 / 255),
                "num_attacked": 200,
                "parts": ("test",),
            },
            "autoattack": _FIRST
            | {
                "num_images": 500,
                "l2_epsilons": (0.25,),
                "linf_epsilons": (2 / 255,),
                "batch_size": 250,
            },
        },
        parts=lambda parts: SHAPES_PARTS,  # not those that heads are fitted to
        head=heads.as_it_is_and_robust,
        plan_head=heads.plan_robust,
        fits=_trained_on_shapes,
    ),
)
BENCHMARKS = {row.name: row for row in _ROWS}
