"""Every key of a training run, with its unit and meaning.

The values are the recipe of the paper's models (Salman et al., NeurIPS 2020, with the settings
of the `robustness` library): ResNet-50 on ImageNet, SGD, 90 epochs, PGD-3. Other configs derive
from this one.
"""

from ml_collections import ConfigDict

from advspur.data.own_tables import ROLES


def get_config():
    config = ConfigDict()
    config.seed = 0  # of initialisation, data order, augmentation and attacks

    # Data
    config.dataset = "imagenet2012"  # or "cifar10", "spurious_shapes" (embedded, no files), "own"
    config.data_dir = ""  # where the data are; "": $TFDS_DATA_DIR, else ~/tensorflow_datasets
    config.mask_dir = ""  # <class>/<image>.png for training images of "imagenet2012"; "": none
    config.augmentation = "auto"  # by data set; or "none", "flip", "crop_flip", "cifar", "imagenet"
    config.num_workers = 0  # Grain worker processes of the input pipeline; 0: threads
    config.skip_unreadable = False  # skip images that cannot be read, and print which
    config.own = ConfigDict()  # how "own" reads data_dir, a folder or a table (docs/own_data.md)
    config.own.image_size = 224  # pixels per side
    config.own.resize = "short"  # to 256/224 of image_size, then its centre; or "square", "none"
    config.own.interpolation = "bilinear"  # or "bicubic"
    config.own.image_dir = ""  # folder that file names are relative to; "": the table's
    config.own.num_classes = 0  # if labels are numbers; 0: those with images
    config.own.columns = ConfigDict(dict.fromkeys(ROLES, ""))  # if a table has different names
    config.own.columns.attributes = ""  # names, with commas; "": every column that looks like one
    config.background = ConfigDict()  # changes of training images outside their objects' masks
    config.background.noise_std = 0.0  # Gaussian noise, pixel units of [0, 1]; 0: none
    config.background.noise_share = 0.5  # P(an image gets this noise)
    config.background.mix_share = 0.0  # P(an image gets the background of a different one)
    config.background.mask_fault = "none"  # of all masks: "dilated", "eroded", "shifted", "random"
    config.background.fault_pixels = 2  # reach of the square, length of the shift; model pixels
    config.color_shift = ConfigDict()  # data.inject_color_shift, of "cifar10" only
    config.color_shift.rho = 0.0  # majority : minority, >= 1; 0: no shift
    config.color_shift.shift = 16 / 255  # of one colour channel, pixel units of [0, 1]
    config.color_shift.seed = 0  # of the assignment of images to the minority
    config.shapes = ConfigDict()  # options of data.spurious_shapes, used by that data set only
    config.shapes.num_train = 10_000  # images
    config.shapes.num_validation = 1_000  # images
    config.shapes.seed = 0  # of the data set itself
    config.shapes.num_classes = 8  # 2 to 8
    config.shapes.image_size = 32  # pixels per side
    config.shapes.correlation = 0.6  # P(background is the one tied to the class)
    config.shapes.core_scale = 0.25  # contrast of the object, pixel units of [0, 1]
    config.shapes.spurious_scale = 0.12  # contrast of the background, pixel units of [0, 1]
    config.shapes.object_size = 0.3  # mean radius, share of image_size; 0: background only
    config.shapes.size_jitter = 0.35  # relative half-range of the object's radius
    config.shapes.position_jitter = 0.15  # half-range of its centre, share of image_size
    config.shapes.color_jitter = 1.0  # 0: white objects, 1: any colour
    config.shapes.noise_std = 0.15  # Gaussian pixel noise, pixel units of [0, 1]

    # Model
    config.arch = "resnet50"  # "resnet18", "resnet50", "resnet_small"
    config.stem = "imagenet"  # "imagenet", "cifar", "small"
    config.dtype = "float32"  # of the forward pass ("bfloat16"); parameters stay float32

    # Attack inside the training step; standard training is epsilon = 0
    config.attack = ConfigDict()
    config.attack.p = 2.0  # 1, 2 or inf
    config.attack.epsilon = 0.0  # budget, pixel units of [0, 1]
    config.attack.method = "pgd"  # "fgsm_rs", "n_fgsm": one step, as published; "free": replays
    config.attack.num_steps = 3  # gradient evaluations of "pgd"; replays of a batch of "free"
    config.attack.relative_step_size = 2 / 3  # l_p length of a step / epsilon; "pgd" and "free"
    config.attack.random_start = "none"  # "none", "ball", "sphere"; "pgd" and "free"
    config.attack.region_weights = (1.0, 1.0)  # budgets on object and background, times epsilon
    config.attack.loss = "cross_entropy"  # or "margin", "dlr", "kl" (of TRADES)
    config.trades_beta = 0.0  # weight of the KL term of TRADES; 0: train on adversarial images only

    # Optimisation: SGD with momentum, weight decay added to the gradient
    config.batch_size = 512  # images per step, over all devices and processes
    config.accumulation_steps = 1  # micro-batches per step, to save memory
    config.num_epochs = 90.0  # passes over the training split
    config.num_steps = 0  # steps; 0: from num_epochs
    config.learning_rate = 0.1  # peak
    config.schedule = "step"  # "step", "cosine", "one_cycle"
    config.decay_epochs = 30.0  # "step": epochs between two decays
    config.decay_factor = 0.1  # "step": factor of a decay
    config.warmup_epochs = 0.0  # linear from 0; "step" and "cosine"
    config.momentum = 0.9
    config.weight_decay = 1e-4  # of all parameters
    config.gradient_clip = 0.0  # largest global l2 norm of the gradient; 0: no clipping
    config.ema_decay = 0.0  # of averaged weights, evaluated beside the raw ones; 0: none

    # Validation, checkpoints, logs
    config.validation = ConfigDict()
    config.validation.every_steps = 5_000  # steps; also after the last one
    config.validation.num_examples = 0  # the first N of the split; 0: all
    config.validation.epsilon = -1.0  # of the PGD accuracy; negative: the training epsilon
    config.validation.num_steps = 20  # of its attack, with step size 2.5 epsilon / num_steps
    config.checkpoint_every_steps = 1_000  # steps; also after the last one and at Ctrl-C
    config.keep_last = 2  # checkpoints kept besides the best
    config.best_metric = "val_pgd_accuracy"  # or "val_clean_accuracy", "val_ema_pgd_accuracy", ...
    config.early_stopping = 0  # stop after N validations without a better best_metric; 0: never
    config.log_every_steps = 50  # steps between two lines of metrics.jsonl
    return config.lock()
