"""Does the linear theory predict networks? Predictions from the data alone, then 252 networks.

python scripts/reproduce.py --config configs/theory_to_networks.py [--config.suite.settings=...]

Six settings of the dials of spurious_shapes, each with objects that vary in place, size and colour
and with objects that do not: then the shape is nearly one coordinate, as in the theory.
"""

from ml_collections import ConfigDict

from configs import quickstart

FIXED = {"position_jitter": 0.0, "size_jitter": 0.0, "color_jitter": 0.0}
DIALS = {
    "base": {},
    "weak_core": {"core_scale": 0.18},
    "strong_background": {"spurious_scale": 0.25},
    "correlated": {"correlation": 0.9},
    "noisy": {"noise_std": 0.25},
}
DIALS["all"] = {name: value for dials in DIALS.values() for name, value in dials.items()}


def get_config():
    config = quickstart.get_config()
    config.shapes.image_size = 24
    config.shapes.num_train = 6_000
    config.attack.num_steps = 1  # from the image to the edge of the ball: budgets are small
    config.attack.relative_step_size = 1.0
    config.checkpoint_every_steps = config.num_steps

    config.suite.seeds = (0, 1, 2)
    config.suite.theory = ()
    varied = {f"varied_{name}": dials for name, dials in DIALS.items()}
    fixed = {f"fixed_{name}": dials | FIXED for name, dials in DIALS.items()}
    with config.unlocked():
        config.suite.dials = ConfigDict(varied | fixed)  # what each setting changes in `shapes`
        config.suite.settings = tuple(config.suite.dials)  # the settings to run
    regions = config.evaluation.regions
    config.evaluation.measures = ("accuracy", "groups", "background_gaps", "regions")
    regions.linf_noise_levels = regions.l2_noise_levels = ()  # regions: deep NFS only
    regions.num_attacked = 0
    return config
