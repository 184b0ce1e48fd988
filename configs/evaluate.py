"""Evaluate models: python scripts/evaluate.py --config configs/evaluate.py [MODEL ...]

The default models are the paper's 22, from $ADVSPUR_MODELS (docs/models.md), on every benchmark
whose data are in $ADVSPUR_DATA (docs/benchmarks.md lists sources and layouts). Records go to
<workdir>/records.jsonl (default runs/evaluate); recorded measures are not repeated.

Options of a benchmark belong to its data, its head or a measure:
--config.options.rival10.data.val_only=True, --config.options.imagenet.autoattack.num_images=1000.
"""

from ml_collections import ConfigDict

from advspur.benchmarks import BENCHMARKS, own_benchmark
from advspur.data.own_tables import ROLES
from advspur.models import suite


def get_config():
    config = ConfigDict()
    config.models = tuple(model.name for model in suite(l2_epsilons=(0.25, 0.5, 1, 3, 5)))
    config.models_dir = ""  # folder of the paper's models; "": $ADVSPUR_MODELS
    config.pretrained = True  # False: random weights for timm:NAME and torchvision:NAME
    config.weights = ("raw",)  # and "ema" for the averaged weights of training runs
    config.benchmarks = (
        "imagenet",
        "imagenet_c",
        "objectnet",
        "rival10",
        "salient_imagenet",
        "imagenet9",
        "waterbirds",
        "cifar_color_shift",  # for models trained on CIFAR-10 with a colour shift
        "spurious_shapes",  # for models trained on it, which are measured on nothing else
    )  # on request: cifar10
    # (): those of each benchmark's protocol. On request: pgd and autoattack for any benchmark,
    # groups and regions if the data have them.
    config.measures = ()
    config.data_dir = ""  # folder of the data sets' folders; "": $ADVSPUR_DATA
    config.directories = ConfigDict()  # of single data sets; "": below data_dir
    for name, row in BENCHMARKS.items():
        if row.reader.directories:
            config.directories[name] = ""
    config.batch_size = 100  # images per forward pass
    config.allow_partial = False  # evaluate incomplete data sets
    config.skip_unreadable = False  # skip damaged files; the report counts them
    config.seed = 0  # of noise, heads and attacks
    config.note = ""  # shown with every figure of the report
    config.options = ConfigDict({name: row.defaults() for name, row in BENCHMARKS.items()})

    # For --data=PATH, your own data (docs/own_data.md)
    config.data_name = ""  # in records and the report; "": the folder's name
    config.columns = ConfigDict(dict.fromkeys(ROLES, ""))  # if a table has different names
    config.columns.attributes = ()  # the columns that make groups with the label
    config.majority = ()  # names of the majority groups; (): those more frequent in train
    config.own = ConfigDict(own_benchmark("own").defaults())
    for name in ("columns", "majority", "allow_partial", "skip_unreadable", "look_for_files"):
        del config.own.data[name]  # above
    config.own.data.image_size = 0  # 0: the model's, or 224
    config.own.data.num_classes = 0  # 0: those with images
    config.own.data.names = ConfigDict({"label": ()})  # of the classes, if labels are numbers
    return config.lock()
