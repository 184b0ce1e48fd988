"""Fixtures of all tests. Environment first: four CPU devices and a compile cache, before jax."""

import dataclasses
import getpass
import os
import tempfile
from importlib.metadata import version
from pathlib import Path

# Four devices, and programs compiled quickly: tests ask what they compute, not how fast.
XLA_FLAGS = {
    "xla_force_host_platform_device_count": "4",
    "xla_cpu_parallel_codegen_split_count": "1",
}
if version("jaxlib").startswith("0.10."):  # 0.11 refuses the flag
    XLA_FLAGS["xla_cpu_use_fusion_emitters"] = "false"
given = os.environ.get("XLA_FLAGS", "")
added = [f"--{name}={value}" for name, value in XLA_FLAGS.items() if name not in given]
os.environ["XLA_FLAGS"] = " ".join([given, *added]).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")  # a figure that is shown opens no window
# Set by environment variables, so that subprocesses of the tests share the cache.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    str(Path(tempfile.gettempdir()) / f"advspur-tests-jax-cache-{getpass.getuser()}"),
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Without LLVM's optimisation, too.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from advspur.models.resnet import ARCHITECTURES  # noqa: E402

collect_ignore = ["models/golden/make_golden.py"]  # it needs torch


@pytest.fixture
def key():
    """A PRNG key."""
    return jax.random.key(0)


@pytest.fixture
def x64():
    """Float64 for the length of one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def shared():
    """The folder of shared material beside the repository."""
    path = Path(__file__).resolve().parents[2] / "shared"
    if not path.is_dir():
        pytest.skip(f"{path} is absent: this test compares with shared reference material")
    return path


@pytest.fixture(scope="session")
def easy_shapes():
    """Options of `spurious_shapes` that a tiny network can learn."""
    dials = {"core_scale": 0.4, "spurious_scale": 0.3, "noise_std": 0.02}
    jitter = {"color_jitter": 0.0, "size_jitter": 0.0, "position_jitter": 0.0}
    return {"image_size": 16} | dials | jitter


@pytest.fixture(scope="session")
def tiny_classifier(easy_shapes):
    """resnet_small of width 4 on 16 x 16 images and 8 classes, its last layer fitted.

    The least-squares fit to 256 images of fixed white shapes (`easy_shapes`) makes most, not
    all, of its predictions right, so that outcomes are mixed.
    """
    from advspur.data import spurious_shapes
    from advspur.models import from_resnet, resnet, resnet_small

    with pytest.MonkeyPatch.context() as patch:  # where a module asks first that has a shorter one
        patch.setattr(resnet, "ARCHITECTURES", ARCHITECTURES)
        network = resnet_small(8, width=4)
    images = jnp.zeros((1, 16, 16, 3))
    variables = jax.jit(network.init)(jax.random.key(0), images)
    classifier = from_resnet(network, variables, mean=(0.5,) * 3, std=(0.25,) * 3)
    columns = spurious_shapes("train", num_examples=256, **easy_shapes).columns
    pixels = jnp.asarray(columns["image"], jnp.float32) / 255
    features = np.concatenate(
        [classifier.features(pixels[i : i + 8]) for i in range(0, 256, 8)], dtype=np.float64
    )
    with_one = np.c_[features, np.ones(len(features))]
    targets = 10 * (np.eye(8)[columns["label"]] - 1 / 8)
    weights = np.linalg.lstsq(with_one, targets)[0].astype(np.float32)
    head = {"kernel": jnp.asarray(weights[:-1]), "bias": jnp.asarray(weights[-1])}
    params = variables["params"] | {"fc": head}
    return dataclasses.replace(classifier, params=variables | {"params": params})
