"""ResNet-50 on ImageNet, adversarially trained: l2, epsilon = 5.0.

One of the paper's twenty models. --config.arch=resnet18 gives the ResNet-18 of the same budget,
--config.dataset=spurious_shapes needs no data on disk. Published clean accuracy (Salman et
al., NeurIPS 2020): ResNet-50 56.13 %, ResNet-18 45.59 %. Not yet run to completion here.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.attack.p = 2.0
    config.attack.epsilon = 5.0
    return config
