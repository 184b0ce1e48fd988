"""Claim: Pillow's JPEG decoder is the one to train with: others gain little of an image's way.

    python scripts/timings/train_decode.py [--pairs=9] [--directory=DIR]

needs simplejpeg and opencv-python-headless (both hold libjpeg-turbo, as Pillow does). DIR holds
class folders of JPEGs; without it 200 drawn ones of 500 x 375 are used. A line of JSON for each
decoder: the ratio of times, Pillow / other, on one thread, and how many pixels differ. Then a line
for the rest of the way, decoding / ("imagenet" augmentation to 224 pixels), and images per second
of the whole pipeline with threads and with Grain's worker processes.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import PIL
import simplejpeg
from _jpegs import drawn, files
from _paired import print_ratio

from advspur.data.augment import augment
from advspur.data.batches import train_batches
from advspur.data.files import folder_source
from advspur.data.transforms import decode
from advspur.training.run_dir import environment

SIZE, BATCH, BATCHES = 224, 64, 20
OTHERS = {
    "simplejpeg": simplejpeg.decode_jpeg,
    "simplejpeg, fast DCT and upsampling": lambda encoded: simplejpeg.decode_jpeg(
        encoded, fastdct=True, fastupsample=True
    ),
    "opencv": lambda encoded: cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB),
}


def main(args):
    cv2.setNumThreads(1)
    encoded = files(args.directory) if args.directory else drawn(200)
    images = [decode(data) for data in encoded]
    versions = {"pillow": PIL.__version__, "simplejpeg": simplejpeg.__version__}
    versions |= {"opencv": cv2.__version__, "images": len(encoded)}
    for name, other in OTHERS.items():
        change = [np.abs(other(e).astype(int) - i) for e, i in zip(encoded, images, strict=True)]
        print_ratio(
            f"decode, Pillow / {name}",
            lambda: [decode(data) for data in encoded],
            lambda other=other: [other(data) for data in encoded],
            args.pairs,
            differing_pixels=sum(int(np.any(c, axis=-1).sum()) for c in change),
            largest_difference=max(int(c.max()) for c in change),
            **versions,
        )
    rng = np.random.default_rng(0)
    print_ratio(
        "decode / augment",
        lambda: [decode(data) for data in encoded],
        lambda: [augment(image, None, rng, kind="imagenet", size=SIZE) for image in images],
        args.pairs,
    )
    with tempfile.TemporaryDirectory() as folder:
        source = folder_source(args.directory or written(encoded, Path(folder)))
        rates = {workers: rate(source, workers) for workers in (0, 1, 2)}
    facts = {"claim": "images/s by number of workers (0: threads)", "images_per_second": rates}
    print(json.dumps(facts | environment()))


def written(encoded, folder):
    """The folder, with the files in one class folder."""
    (folder / "class").mkdir()
    for i, data in enumerate(encoded):
        (folder / "class" / f"{i}.JPEG").write_bytes(data)
    return folder


def rate(source, num_workers):
    """Images per second, after the first batches."""
    batches = train_batches(
        source,
        batch_size=BATCH,
        image_size=SIZE,
        augmentation="imagenet",
        seed=0,
        num_workers=num_workers,
    )
    for _ in range(8):
        next(batches)
    start = time.perf_counter()
    for _ in range(BATCHES):
        next(batches)
    return round(BATCH * BATCHES / (time.perf_counter() - start))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--directory", type=Path)
    main(parser.parse_args())
