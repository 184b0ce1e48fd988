"""JPEGs to decode: those of class folders, or drawn ones."""

import io

import numpy as np
from PIL import Image

from advspur.data import folder_source


def files(directory):
    """The encoded JPEGs of class folders."""
    source = folder_source(directory)
    return [source[i]["image"] for i in range(len(source))]


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
