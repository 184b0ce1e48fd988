"""The suite of the paper's Figure 9: ResNet-18 on CIFAR-10 with a spurious colour.

python scripts/reproduce.py --config configs/cifar10_color_shift.py --config.data_dir=DIR

Five ratios rho of majority to minority, standard and adversarial training (l2 0.5, linf 8/255),
three seeds: 45 models, for a GPU. DIR holds cifar10/3.0.2, prepared as array_record. What fits a
CPU is measured in docs/results.md, on a smaller network and fewer images.
"""

from ml_collections import ConfigDict

from configs import cifar10_l2_eps0_5


def get_config():
    config = cifar10_l2_eps0_5.get_config()
    config.augmentation = "crop_flip"  # no colour jitter: it would act on the very feature
    config.color_shift.rho = 1.0
    config.ema_decay, config.best_metric = 0.0, "val_pgd_accuracy"  # no averaged weights
    config.attack.relative_step_size = 0.25
    config.validation.every_steps = 5_000
    config.validation.num_examples = 2_000

    with config.unlocked():
        config.suite = ConfigDict()
        config.suite.l2_epsilons = (0.5,)  # training budgets, pixel units of [0, 1]
        config.suite.linf_epsilons = (8 / 255,)
        config.suite.rhos = (1.0, 2.0, 4.0, 9.0, 19.0)  # majority : minority
        config.suite.theory = ()
        config.suite.seeds = (0, 1, 2)  # every model is trained once a seed
        config.suite.per_device = 1  # models a device trains at once; 0: chosen by the backend
        config.evaluation = evaluation()
        config.note = ""  # said beside every figure of the report
        config.autoattack = ConfigDict()
        config.autoattack.num_images = 1_000  # the first so many test images; 0: no AutoAttack
        config.autoattack.batch_size = 500  # images an attack takes at once
    return config


def evaluation():
    """Options of benchmarks.cifar_color_shift.evaluate."""
    options = ConfigDict()
    options.batch_size = 500  # images a forward pass
    options.num_attacked = 10_000  # the first so many test images
    # PGD budgets of standard models; others are attacked at 0.5, 1 and 2 times their own
    options.l2_epsilons = (0.05, 0.1, 0.15, 0.2, 0.25)
    options.linf_epsilons = (0.25 / 255, 0.5 / 255, 0.75 / 255, 1 / 255)
    options.attack_steps = 20
    options.allow_partial = False  # evaluate on what is there of the test images
    return options.lock()
