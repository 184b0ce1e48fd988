"""Evaluate models: python scripts/evaluate.py --config configs/evaluate.py [MODEL ...]

Without a MODEL the paper's 22, from $ADVSPUR_MODELS (docs/models.md), on every benchmark whose data
lie below $ADVSPUR_DATA (docs/benchmarks.md: which, where from, in which layout). Records go to
<workdir>/records.jsonl (runs/evaluate); what is there already is not measured again.

Options of the benchmarks are set as --config.options.rival10.val_only=True.
"""

from ml_collections import ConfigDict

from advspur.benchmarks import AUTOATTACK, BENCHMARKS
from advspur.models import suite
from configs import cifar10_color_shift, quickstart


def get_config():
    config = ConfigDict()
    config.models = tuple(model.name for model in suite(l2_epsilons=(0.25, 0.5, 1, 3, 5)))
    config.models_dir = ""  # where the suite's models lie; "": $ADVSPUR_MODELS
    config.weights = ("raw",)  # and "ema" for the averaged weights of own runs
    config.benchmarks = (
        "imagenet",
        "imagenet_c",
        "objectnet",
        "rival10",
        "salient_imagenet",
        "imagenet9",
        "waterbirds",
        "cifar_color_shift",  # models trained on CIFAR-10 with a colour shift
        "spurious_shapes",  # models trained on it are evaluated on it, and on nothing else
    )  # and, much slower, autoattack_{imagenet,cifar10,cifar_color_shift,rival10,spurious_shapes};
    # autoattack: all of these
    config.data_dir = ""  # folder that holds the data sets' folders; "": $ADVSPUR_DATA
    config.directories = ConfigDict()  # of single data sets; "": below data_dir
    for name in (*config.benchmarks[:-1], "cifar10"):
        config.directories[name] = ""
    config.batch_size = 100  # images a forward pass
    config.allow_partial = False  # evaluate on what is there of an incomplete data set
    config.skip_unreadable = False  # leave damaged files out; how many is said
    config.seed = 0  # of noise, heads and attacks
    config.note = ""  # said beside every figure of the report
    config.options = options()
    return config.lock()


def options():
    """Options of the benchmarks' `evaluate`, explained there; those of `regions` in regions.py."""
    options = ConfigDict()
    options.objectnet = ConfigDict({"resize": 256})  # or 224, the official template's
    options.rival10 = ConfigDict(
        {
            "transform": "resize",  # or "resize_crop"
            "val_only": False,  # only images that no backbone was trained on
            "mask": "soft",  # or "threshold", "nonzero"
            "legacy": False,  # the head as the official code trains it
            "learning_rate": 1e-5,
            "weight_decay": 1e-4,
            "num_epochs": 10,
        }
    )
    options.salient_imagenet = ConfigDict(
        {
            "image_dir": "",  # ImageNet's train folder
            "legacy": False,  # masks magnified by 8/7, as the official loader does
            "dilation_rounds": 15,
            "spurious_region": "complement",  # or "masks"
        }
    )
    options.imagenet9 = ConfigDict(
        {
            "transform": "none",  # or "standard"
            "mapped_only": False,  # predict among the 370 mapped classes
            "challenge_backgrounds": 0,  # 4050 for the official challenge accuracy
        }
    )
    options.waterbirds = ConfigDict(
        {
            "learning_rate": 5e-4,
            "sensitivity_learning_rates": (1e-5, 1e-4, 1e-3),
            "weight_decay": 1e-4,
            "num_epochs": 10,
        }
    )
    for name in ("rival10", "salient_imagenet", "imagenet9"):
        options[name].regions = quickstart.regions(BENCHMARKS[name])
    options.spurious_shapes = quickstart.evaluation()
    options.cifar_color_shift = cifar10_color_shift.evaluation()
    for name, benchmark in AUTOATTACK.items():
        options[name] = autoattack(benchmark)
    for name in ("transform", "val_only", "learning_rate", "weight_decay", "num_epochs"):
        options.autoattack_rival10[name] = options.rival10[name]  # of the head, as there
    for name in ("cifar10", "cifar_color_shift", "spurious_shapes"):
        options[f"autoattack_{name}"].batch_size = 250  # images an attack takes at once
    return options


def autoattack(benchmark):
    """Options of one of AUTOATTACK."""
    options = ConfigDict({"version": "standard"})  # or "plus"
    options.l1_epsilons, options.l2_epsilons, options.linf_epsilons = (), (), ()
    options.update(benchmark.OPTIONS)  # num_images; image_list: a file that names them instead
    return options
