"""ResNet-18 (CIFAR stem) on TFDS cifar10, adversarially trained: l2, epsilon = 0.5.

The settings of the `robustness` library: PGD-7 from the clean image, 150 epochs of batch 128, the
rate times 0.1 every 50. Averaged weights are kept too, and select the best checkpoint. Reads
<data_dir>/cifar10/3.0.2, prepared as array_record. For a fifth of the work:
--config.num_epochs=30 --config.schedule=one_cycle.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.dataset = "cifar10"
    config.arch = "resnet18"
    config.stem = "cifar"
    config.attack.p = 2.0
    config.attack.epsilon = 0.5
    config.attack.num_steps = 7
    config.attack.relative_step_size = 0.2
    config.batch_size = 128
    config.num_epochs = 150.0
    config.decay_epochs = 50.0
    config.weight_decay = 5e-4
    config.ema_decay = 0.999
    config.best_metric = "val_ema_pgd_accuracy"
    config.validation.every_steps = 2_000
    return config
