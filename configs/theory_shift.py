"""Figure 4: standard loss under a shift that breaks the spurious correlation, core and total.

python scripts/theory.py --config configs/theory_shift.py
"""

from configs import theory_nfs


def get_config():
    config = theory_nfs.get_config()
    with config.unlocked():
        del config.etas, config.spurious_scale
        config.figure = "shift"
        config.eta = 0.25
        config.scales = (1.0, 1.0, 3.0)  # of the spurious features, for each norm
        config.num_epsilons = 41
        config.largest_share = 0.98  # of the collapse radius
        config.shift_stds = (0.0, 1.0, 21)  # from, to, number
        config.num_draws = 500  # of the noise, for bands and to check the formula
        config.seed = 0
    return config.lock()
