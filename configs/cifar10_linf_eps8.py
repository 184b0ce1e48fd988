"""ResNet-18 (CIFAR stem) on TFDS cifar10, adversarially trained: linf, epsilon = 8 / 255.

PGD-10 with steps of 2 / 255 from a random start, the rest as in cifar10_l2_eps0_5.py. For fast
training, validated once per epoch: --config.attack.method=n_fgsm (or fgsm_rs)
--config.best_metric=val_pgd_accuracy --config.validation.every_steps=390
"""

from configs import cifar10_l2_eps0_5


def get_config():
    config = cifar10_l2_eps0_5.get_config()
    config.attack.p = float("inf")
    config.attack.epsilon = 8 / 255
    config.attack.num_steps = 10
    config.attack.relative_step_size = 0.25
    config.attack.random_start = "ball"
    return config
