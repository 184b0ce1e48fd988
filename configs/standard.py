"""ResNet-50 on ImageNet, standard training: the baseline of the paper's twenty models.

Published clean accuracy of this recipe (Salman et al., NeurIPS 2020, epsilon = 0): ResNet-50
75.80 %, ResNet-18 69.79 % (--config.arch=resnet18). Not yet run to completion here.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.attack.epsilon = 0.0
    return config
