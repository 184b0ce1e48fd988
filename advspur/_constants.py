"""Facts that more than one part needs."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Of the models that ImageNet-9's authors trained on it (backgrounds challenge).
IMAGENET9_MEAN, IMAGENET9_STD = (0.4717, 0.4499, 0.3837), (0.26, 0.2516, 0.2575)
