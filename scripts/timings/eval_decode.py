"""Claim: decoding a JPEG and the standard evaluation transform cost no more than torchvision's.

python scripts/timings/eval_decode.py [PAIRS [DIR]] prints one line of JSON: the ratio of times,
ours / torchvision's (Pillow images, Resize(256), CenterCrop(224), PILToTensor), on one thread over
the same JPEGs with the same Pillow, and how many pixels differ. DIR holds class folders of JPEGs;
without it 200 drawn ones of 500 x 375 are used. Needs torchvision.
"""

import io
import sys

import numpy as np
import torch
import torchvision
from _jpegs import drawn, files
from _paired import print_ratio
from PIL import Image, __version__
from torchvision.transforms import v2

from advspur.data.transforms import STANDARD, open_image


def main(pairs=9, directory=None):
    torch.set_num_threads(1)
    encoded = files(directory) if directory else drawn(200)
    transform = v2.Compose([v2.Resize(256), v2.CenterCrop(224), v2.PILToTensor()])

    def ours(data):
        return np.asarray(STANDARD(open_image(data)))

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


if __name__ == "__main__":
    main(*(int(a) if a.isdigit() else a for a in sys.argv[1:]))
