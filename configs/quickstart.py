"""The suite of scripts/reproduce.py: seven small models on the embedded data, on a laptop CPU.

python scripts/reproduce.py --config configs/quickstart.py [--config.suite.seeds=0,1,2]

A three-block ResNet on 32 x 32 spurious shapes, with standard training and adversarial training in
two norms with three budgets each, evaluated for reliance on the background. Takes minutes on two
CPU cores.
"""

from ml_collections import ConfigDict

from advspur.benchmarks import BENCHMARKS
from configs import default


def get_config():
    config = default.get_config()
    config.dataset = "spurious_shapes"
    config.arch = "resnet_small"
    config.stem = "small"
    config.batch_size = 64
    config.num_steps = 320
    config.schedule = "one_cycle"
    config.weight_decay = 5e-4
    config.gradient_clip = 5.0
    config.validation.every_steps = 320
    config.validation.num_examples = 512
    config.validation.num_steps = 10
    config.checkpoint_every_steps = 160
    config.log_every_steps = 20

    with config.unlocked():
        config.suite = ConfigDict()
        config.suite.l2_epsilons = (0.125, 0.25, 0.5)  # training budgets, pixel units of [0, 1]
        config.suite.linf_epsilons = (1 / 255, 2 / 255, 4 / 255)
        config.suite.theory = ("nfs", "scale", "shift")  # configs/theory_*.py to sweep
        config.suite.seeds = (0,)  # every model is trained once per seed
        config.suite.per_device = 0  # models that a device trains at once; 0: by the backend
        config.evaluation = evaluation()
        config.evaluation.pgd.num_steps = 10
        config.note = ""  # shown with every figure of the report
    return config


def evaluation(benchmark="spurious_shapes", *, batch_size=250, more=()):
    """Return the options of a benchmark's data and measures; `more`: measures to add."""
    row, options = BENCHMARKS[benchmark], ConfigDict()
    options.batch_size = batch_size  # images per forward pass
    options.measures = (*row.measures, *more)
    defaults = row.defaults()
    options.update({group: defaults[group] for group in ("data", "head", *options.measures)})
    return options
