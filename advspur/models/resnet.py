"""ResNet-18, ResNet-50 and WideResNet-50 in Flax Linen, with torchvision's "v1.5" geometry.

Stems: "imagenet" 7x7/2 convolution and 3x3/2 max pooling; "cifar" one 3x3/1 convolution;
"small" one 3x3/2 convolution (for the quickstart on a CPU). The stride of a bottleneck is on its
3x3 convolution. Paddings are explicit, (3, 3) and (1, 1): SAME pads asymmetrically under
stride 2 and would shift features against the published weights. Layout is NHWC.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from advspur._checks import check_choice, require
from advspur._convolutions import convolve
from advspur.models.classifier import Classifier, normalize

STEMS = ("imagenet", "cifar", "small")
ARCHITECTURES = {  # stage_sizes, bottleneck, width, widening
    "resnet18": ((2, 2, 2, 2), False, 64, 1),
    "resnet50": ((3, 4, 6, 3), True, 64, 1),
    "wide_resnet50_2": ((3, 4, 6, 3), True, 64, 2),
    "wide_resnet50_4": ((3, 4, 6, 3), True, 64, 4),
    "resnet_small": ((1, 1, 1), False, 16, 1),
}

_kaiming = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_linear = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class ResNet(nn.Module):
    """A residual network; build it with `resnet18`, `resnet50`, ... or `build_network`."""

    stage_sizes: tuple
    bottleneck: bool
    num_classes: int
    width: int = 64
    stem: str = "imagenet"
    dtype: object = jnp.float32
    axis_name: str | None = None  # batch statistics are averaged over this pmap axis
    widening: int = 1  # of the 3x3 convolutions of bottlenecks: 2 in WideResNet-50-2

    @nn.compact
    def __call__(self, images, *, train=False):
        """[n, h, w, 3] normalised images -> (logits, averages after the last ReLU), float32."""
        conv = functools.partial(
            nn.Conv,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=_kaiming,
            conv_general_dilated=convolve,
        )
        norm = functools.partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            dtype=self.dtype,
            axis_name=self.axis_name if train else None,
        )
        x = jnp.asarray(images, self.dtype)
        side = 7 if self.stem == "imagenet" else 3
        x = _conv(conv, x, self.width, side, 1 if self.stem == "cifar" else 2, "conv1")
        x = nn.relu(norm(name="bn1")(x))
        if self.stem == "imagenet":
            x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        for stage, num_blocks in enumerate(self.stage_sizes):
            width = self.width * 2**stage
            for index in range(num_blocks):
                stride = 2 if stage > 0 and index == 0 else 1
                layers = [(width, 3, stride), (width, 3, 1)]  # channels, side, stride
                if self.bottleneck:
                    inner = width * self.widening
                    layers = [(inner, 1, 1), (inner, 3, stride), (4 * width, 1, 1)]
                x = _block(conv, norm, x, layers, stride, f"layer{stage + 1}_{index}")
        features = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
        logits = nn.Dense(self.num_classes, dtype=self.dtype, kernel_init=_linear, name="fc")(
            features
        )
        return logits.astype(jnp.float32), features


def resnet18(num_classes=1000, *, stem="imagenet", dtype=jnp.float32):
    """ResNet-18: basic blocks (2, 2, 2, 2), 11,689,512 parameters at 1000 classes."""
    return build_network("resnet18", num_classes, stem=stem, dtype=dtype)


def resnet50(num_classes=1000, *, stem="imagenet", dtype=jnp.float32):
    """ResNet-50: bottleneck blocks (3, 4, 6, 3), 25,557,032 parameters at 1000 classes."""
    return build_network("resnet50", num_classes, stem=stem, dtype=dtype)


def resnet_small(num_classes, *, width=16, stem="small", dtype=jnp.float32):
    """Three stages of one basic block each, for CPU-size experiments."""
    return build_network("resnet_small", num_classes, stem=stem, dtype=dtype).clone(width=width)


def build_network(arch, num_classes, *, stem, dtype=jnp.float32):
    """Build the network `arch`, a key of ARCHITECTURES."""
    check_choice("arch", arch, tuple(ARCHITECTURES))
    check_choice("stem", stem, STEMS)
    require(num_classes >= 2, f"num_classes = {num_classes}: at least two are needed")
    sizes, bottleneck, width, widening = ARCHITECTURES[arch]
    return ResNet(sizes, bottleneck, num_classes, width, stem, jnp.dtype(dtype), widening=widening)


@dataclasses.dataclass(frozen=True)
class ResNetForward:
    """The forward of a ResNet with its normalisation."""

    network: ResNet
    mean: tuple
    std: tuple

    @property
    def arch(self):
        """The key of `build_network`, or "ResNet"."""
        net = self.network
        key = (net.stage_sizes, net.bottleneck, net.width, net.widening)
        return next((name for name, known in ARCHITECTURES.items() if known == key), "ResNet")

    def __call__(self, variables, images):
        """(logits, features), with running batch statistics."""
        return self.network.apply(variables, normalize(images, self.mean, self.std))


def from_resnet(network, variables, *, mean, std, image_size=None):
    """The Classifier of a `ResNet` and its variables; mean and std for each channel."""
    forward = ResNetForward(network, tuple(mean), tuple(std))
    return Classifier(variables, forward, network.num_classes, image_size=image_size, code="ResNet")


def variable_shapes(network):
    """Return the variables of a network as shapes and dtypes, without computing them."""
    images = jnp.zeros((1, 64, 64, 3))  # any size: features are averaged over space
    return jax.eval_shape(network.init, jax.random.key(0), images)


def _conv(conv, x, channels, side, stride, name):
    padding = ((side // 2, side // 2),) * 2
    return conv(channels, (side, side), (stride, stride), padding=padding, name=name)(x)


def _block(conv, norm, x, layers, stride, name):
    y = x
    for number, layer in enumerate(layers, 1):
        y = nn.relu(y) if number > 1 else y
        y = norm(name=f"{name}_bn{number}")(_conv(conv, y, *layer, f"{name}_conv{number}"))
    channels = layers[-1][0]
    if stride > 1 or x.shape[-1] != channels:
        x = _conv(conv, x, channels, 1, stride, f"{name}_downsample_conv")
        x = norm(name=f"{name}_downsample_bn")(x)
    return nn.relu(y + x)
