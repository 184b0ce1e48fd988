"""Is it the last layer? Group-robust heads on the features of standard and adversarial networks.

python scripts/reproduce.py --config configs/robust_heads.py [--config.evaluation.head.heads=...]

Three kinds of networks from configs/remedies.py; heads are fitted to training images and chosen on
validation images (docs/heads.md).
"""

from advspur.heads.selection import HEADS
from configs import remedies


def get_config():
    config = remedies.get_config()
    config.suite.l2_epsilons = ()
    config.suite.linf_epsilons = (remedies.BUDGET,)
    config.suite.trained = ("rest_only",)
    evaluation = config.evaluation
    evaluation.measures = ("accuracy", "groups", "background_gaps", "pgd")
    evaluation.pgd.linf_epsilons, evaluation.pgd.l2_epsilons = (remedies.BUDGET,), ()
    evaluation.data.num_train = 6_000  # images that heads are fitted to
    evaluation.data.num_val = 2_000  # images that they are chosen on
    evaluation.head.heads = HEADS
    return config
