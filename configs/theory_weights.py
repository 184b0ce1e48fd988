"""A separate budget for the spurious features: NFS and losses over its weight and epsilon.

python scripts/theory.py --config configs/theory_weights.py
"""

import math

from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    config.figure = "weights"
    config.norms = (1.0, 2.0, math.inf)
    config.scales = (1.0, 1.0, 3.0)  # of the spurious features, one for each norm
    config.eta = 0.5
    config.weights = (0.1, 30.0, 61)  # from, to, number, evenly in log; 1 and inf are added
    config.num_epsilons = 40  # up to the collapse radius of the core features alone
    config.noise_std = 0.1
    config.theta_opt = (1.0, 1.0, 0.0, 0.0, 0.0)
    config.dtype = "float64"
    return config.lock()
