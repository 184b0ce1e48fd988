"""Development tool: the JPEG copy of CIFAR-10 in ../shared as a TFDS array_record directory.

python tests/data/cifar10_jpeg.py DATA_DIR [NUM_TRAIN NUM_TEST]

Then: python scripts/train.py --config configs/cifar10_l2_eps0_5.py --config.data_dir=DATA_DIR
"""

import importlib.util
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
LOADER = ROOT.parent / "shared" / "data" / "load_cifar10.py"


def write_cifar10(data_dir, *, num_train, num_test):
    """Write DATA_DIR/cifar10/3.0.2 with the first images of the shuffled splits."""
    sys.path.insert(0, str(ROOT / "scripts"))
    from prepare_data import prepare_arrays

    spec = importlib.util.spec_from_file_location("load_cifar10", LOADER)
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    arrays = {}
    for split, limit in (("train", num_train), ("test", num_test)):
        images, labels = loader.load_cifar10(split, limit=limit)
        arrays |= {f"{split}_images": images, f"{split}_labels": labels}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cifar10.npz"
        np.savez(file, **arrays)
        return prepare_arrays(file, "cifar10", data_dir, version="3.0.2")


if __name__ == "__main__":
    sizes = [int(x) for x in sys.argv[2:]] or [50_000, 10_000]
    print(write_cifar10(Path(sys.argv[1]), num_train=sizes[0], num_test=sizes[1]))
