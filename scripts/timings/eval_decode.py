"""Claim: decoding a JPEG and the standard evaluation transform cost no more than torchvision's.

python scripts/timings/eval_decode.py [PAIRS [DIR]] prints one line of JSON: the ratio of times,
ours / torchvision's (Pillow images, Resize(256), CenterCrop(224), PILToTensor), on one thread over
the same JPEGs with the same Pillow, and how many pixels differ. DIR holds class folders of JPEGs;
without it 200 drawn ones of 500 x 375 are used. Needs torchvision.
"""

import io
import sys
from pathlib import Path

import numpy as np
import torch
import torchvision
from _paired import print_ratio
from PIL import Image, __version__
from torchvision.transforms import v2

from advspur.data.layouts import standard_transform
from advspur.data.sources import FolderSource
from advspur.data.transforms import open_image


def main(pairs=9, directory=None):
    torch.set_num_threads(1)
    encoded = files(directory) if directory else drawn(200)
    transform = v2.Compose([v2.Resize(256), v2.CenterCrop(224), v2.PILToTensor()])

    def ours(data):
        return np.asarray(standard_transform(open_image(data)))

    def theirs(data):
        return transform(Image.open(io.BytesIO(data)).convert("RGB"))

    differing = sum(
        int(np.any(ours(data) != theirs(data).numpy().transpose(1, 2, 0), axis=-1).sum())
        for data in encoded
    )
    print_ratio(
        f"decode and evaluation transform, ours / torchvision, {len(encoded)} JPEGs, one thread",
        lambda: [ours(data) for data in encoded],
        lambda: [theirs(data) for data in encoded],
        pairs,
        differing_pixels=differing,
        pillow=__version__,
        torchvision=torchvision.__version__,
    )


def files(directory):
    """The encoded JPEGs of class folders."""
    return [path.read_bytes() for path, _ in FolderSource(Path(directory)).files]


def drawn(count):
    """Encoded JPEGs of smooth random colours with noise."""
    rng, encoded = np.random.default_rng(0), []
    for _ in range(count):
        small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
        pixels = np.asarray(small.resize((500, 375), Image.Resampling.BICUBIC), float)
        pixels = np.clip(pixels + rng.normal(0, 12, pixels.shape), 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=92)
        encoded.append(file.getvalue())
    return encoded


if __name__ == "__main__":
    main(*(int(a) if a.isdigit() else a for a in sys.argv[1:]))
