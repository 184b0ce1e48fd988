"""A run of seconds: 12 steps of PGD-1 on 16-pixel shapes, a checkpoint every 4."""

from configs import default


def get_config():
    config = default.get_config()
    config.dataset = "spurious_shapes"
    config.shapes.num_train = 64
    config.shapes.num_validation = 20
    config.shapes.image_size = 16
    config.arch = "resnet_small"
    config.stem = "small"
    config.attack.epsilon = 0.25
    config.attack.num_steps = 1
    config.attack.random_start = "ball"
    config.batch_size = 16
    config.num_steps = 12
    config.learning_rate = 0.05
    config.ema_decay = 0.9
    config.checkpoint_every_steps = 4
    config.log_every_steps = 1
    config.validation.every_steps = 6
    config.validation.epsilon = 0.0
    config.validation.num_steps = 1
    return config
