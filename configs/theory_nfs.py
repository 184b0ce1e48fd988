"""Figure 2: NFS over epsilon for three norms and several eta.

python scripts/theory.py --config configs/theory_nfs.py
"""

import math

from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    config.figure = "nfs"
    config.norms = (1.0, 2.0, math.inf)
    config.etas = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
    config.num_epsilons = 201  # from 0 to the largest collapse radius of the norm
    config.spurious_scale = 1.0
    config.noise_std = 0.1
    config.theta_opt = (1.0, 1.0, 0.0, 0.0, 0.0)  # not in the paper: see docs/theory.md
    config.dtype = "float64"  # or float32: faster on a GPU, NFS accurate to about 1e-5
    return config.lock()
