"""Figure 3: NFS over the scale of the spurious features for linf, and the phase diagram.

python scripts/theory.py --config configs/theory_scale.py
"""

from ml_collections import ConfigDict

from configs import theory_nfs


def get_config():
    config = theory_nfs.get_config()
    with config.unlocked():
        del config.norms, config.spurious_scale
        config.figure = "scale"
        config.etas = (0.25, 0.5, 1.0)
        config.scales = (0.5, 5.0, 91)  # from, to, number
        config.num_epsilons = 121
        config.phase = ConfigDict({"etas": (0.05, 3.0, 60), "scales": (0.5, 5.0, 60)})
    return config.lock()
