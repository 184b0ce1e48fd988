"""The suite of the paper's Figure 9: ResNet-18 on CIFAR-10 with a spurious colour.

python scripts/reproduce.py --config configs/cifar10_color_shift.py --config.data_dir=DIR

Five ratios rho of majority to minority, standard and adversarial training (l2 0.5, linf 8/255),
three seeds: 45 models, for a GPU. DIR contains cifar10/3.0.2, prepared as array_record.
docs/results.md has a smaller version for a CPU.
"""

from ml_collections import ConfigDict

from configs import cifar10_l2_eps0_5, quickstart


def get_config():
    config = cifar10_l2_eps0_5.get_config()
    config.augmentation = "crop_flip"  # no colour jitter, which would change the spurious feature
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
        config.suite.seeds = (0, 1, 2)  # every model is trained once per seed
        config.suite.per_device = 1  # models that a device trains at once; 0: by the backend
        # These budgets are for standard models; others get 0.5, 1 and 2 times their training one.
        # AutoAttack uses the first 1,000 test images: remove it from `measures` to save time.
        config.evaluation = quickstart.evaluation(
            "cifar_color_shift", batch_size=500, more=("autoattack",)
        )
        config.evaluation.autoattack.batch_size = 500
        config.note = ""  # shown with every figure of the report
    return config
