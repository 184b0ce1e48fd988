"""Writes tiny copies of the benchmarks in their official layouts, traps included.

Images are smooth random colour fields with an object drawn on them: large enough for every
transform to do something, small enough to be written in milliseconds.
"""

import base64
import csv
import itertools
import pickle

import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw

from advspur.data import array_source, imagenet9, imagenet_c
from advspur.data.label_maps import IMAGENET9, OBJECTNET, imagenet_wnids, rival10_labels
from advspur.data.readers import READERS
from advspur.models import Classifier
from tests.data.own_files import encode, put


def read(name, root, **options):
    """{part: Table} of what is there now, also of an incomplete copy."""
    reader = READERS[name].read
    reader.cache_clear()
    return reader(root, **{"allow_partial": True} | options)


def picture(rng, size=(60, 48), mode="RGB"):
    """(image, mask): a colour field with a disc; the mask is 255 on the disc."""
    small = rng.integers(0, 256, (5, 6, 3), np.uint8)
    image = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
    width, height = size
    box = [width * 0.3, height * 0.3, width * 0.7, height * 0.7]
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).ellipse(box, fill=255)
    ImageDraw.Draw(image).ellipse(box, fill=tuple(map(int, rng.integers(0, 256, 3))))
    return image.convert(mode), mask


def save(image, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def direct(image, size=224, side=256, resize="short", interpolation=2, border=0):
    """By Pillow, with torchvision's sizes: int(side * long / short), int(round(rest / 2.0))."""
    image = image.crop((border, border, image.size[0] - border, image.size[1] - border))
    width, height = image.size
    short = min(width, height)
    if resize != "crop":
        new = [side if x == short else int(side * x / short) for x in (width, height)]
        image = image.resize(new if resize == "short" else (side, side), interpolation)
    left, top = (int(round((x - size) / 2.0)) for x in image.size)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def cut_short(path):
    """Leave the first three quarters of a file: its header and some of its data."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])


class Passes:
    """A progress that counts, keeps its lines, and can stop the work.

    Args:
      limit: KeyboardInterrupt after more units than that.
      until: KeyboardInterrupt at a line that begins so.
    """

    def __init__(self, limit=None, until=None):
        self.done, self.skipped, self.lines, self.limit, self.until = 0, 0, [], limit, until

    def advance(self, amount=1, note=""):
        """`amount` more are done."""
        self.done += amount
        if self.limit is not None and self.done > self.limit:
            raise KeyboardInterrupt

    def skip(self, amount):
        """`amount` were done before."""
        self.skipped += amount

    def line(self, text):
        """Keep a line."""
        self.lines.append(text)
        if self.until is not None and text.startswith(self.until):
            raise KeyboardInterrupt


def _by_greys(table, images):
    middle = images.shape[1] // 2
    centre, corner = (jnp.round(25.5 * images[:, i, i, 0]).astype(int) for i in (middle, 0))
    return table[centre, corner], jnp.mean(images, axis=(1, 2))


def coded(answers, num_classes, others=()):
    """A Classifier that ranks classes by the greys of the central and the corner pixel.

    Args:
      answers: {level of both, or (centre, corner): class, or (best class, second, ...)}, levels in
        steps of 10 of 255.
      others: the classes, ranked, of all other greys.
    """
    table = np.zeros((26, 26, num_classes), np.float32)
    table[..., list(others)] = np.arange(len(others), 0, -1)
    for level, ranked in answers.items():
        ranked = ranked if isinstance(ranked, tuple) else (ranked,)
        places = level if isinstance(level, tuple) else (level, level)
        row = table[places[0] // 10, places[1] // 10]
        row[:] = 0
        row[list(ranked)] = np.arange(len(ranked), 0, -1)
    return Classifier(jnp.asarray(table), _by_greys, num_classes, code="by greys")


def greys(levels, labels, num_classes, **columns):
    """A Table of images of 8 pixels a side, each of one grey."""
    levels = np.asarray(levels, np.uint8)[:, None, None, None]
    images = np.broadcast_to(levels, (len(levels), 8, 8, 3))
    return array_source(images, labels, num_classes=num_classes, **columns)


def write_imagenet(root, classes=(0, 1, 207, 404, 999), per_class=2):
    """val/<wnid>/*.JPEG; among them a greyscale and a CMYK file."""
    rng = np.random.default_rng(0)
    for number, index in enumerate(classes):
        for i in range(per_class):
            mode = {(0, 0): "L", (1, 0): "CMYK"}.get((number, i), "RGB")
            image, _ = picture(rng, (70, 50) if i else (50, 66), mode)
            name = f"ILSVRC2012_val_{per_class * number + i + 1:08d}.JPEG"
            save(image, root / "val" / imagenet_wnids()[index] / name, format="JPEG")
    return root


def write_imagenet_c(root, classes=(3, 500), per_class=2):
    """15 corruptions x 5 severities of the same images, stored at 224 x 224."""
    rng = np.random.default_rng(1)
    for index in classes:
        for i in range(per_class):
            content = encode(picture(rng, (224, 224))[0], "JPEG", quality=85)
            name = f"{imagenet_wnids()[index]}/ILSVRC2012_val_{10 * index + i:08d}.JPEG"
            for cell in imagenet_c.SIZES:
                put(root / cell / name, content)
    return root


def write_objectnet(root, folders=("alarm_clock", "chair", "air_freshener", "still_camera", "mug")):
    """images/<folder>/<hex>.png with a red border of 2; "air_freshener" is not in ImageNet."""
    rng = np.random.default_rng(2)
    for folder in folders:
        for i in range(2):
            image, _ = picture(rng, (80, 60))
            framed = Image.new("RGB", (84, 64), (255, 0, 0))
            framed.paste(image, (2, 2))
            save(framed, root / "images" / folder / f"{rng.integers(2**40):x}{i}.png")
    assert "air_freshener" not in OBJECTNET
    return root


def write_rival10(root, per_class=2):
    """Both splits; a mask that only the pickled attributes hold; augmented names; merged masks."""
    rng = np.random.default_rng(3)
    for split in ("train", "test"):
        for number, wnid in enumerate(rival10_labels()):
            for i in range(per_class):
                place = i + (5 if split == "train" else 0)  # no image is in both splits
                name = f"ILSVRC2012_val_{place:08d}" if i and number == 4 else f"{wnid}_{place}"
                stem = f"{wnid}_{name}"
                image, mask = picture(rng, mode="L" if number == 0 and i == 0 else "RGB")
                folder = root / split / "ordinary"
                save(image, folder / f"{stem}.JPEG", format="JPEG")
                save(mask, folder / f"{stem}_merged_mask.JPEG", format="JPEG")
                np.save(folder / f"{stem}_attr_labels.npy", np.zeros((2, 18), int))
                attributes = {"entire-object": base64.b64encode(encode(mask)).decode()}
                (folder / f"{stem}_attr_dict.pkl").write_bytes(pickle.dumps(attributes))
                if not (number == 1 and i == 0):
                    save(mask, root / split / "entire_object_masks" / f"{stem}.JPEG")
    return root


ANSWERS = ["WorkerId", "Input.wordnet_id", "Input.class_index", "Input.feature_index"]
ANSWERS += ["Input.feature_rank", "Answer.main", "Answer.confidence", "Answer.reasons"]


def write_table(file, *rows):
    """A csv file."""
    with file.open("w", newline="") as content:
        csv.writer(content).writerows(rows)


def write_salient(root):
    """Two classes, two features each; feature 11 of the second is spurious; image ..._2 has only
    that one, so it has no core mask. The images are in ImageNet beside it."""
    rng, answers, image_dir = np.random.default_rng(4), [], root.parent / "imagenet" / "train"
    wnids = {index: imagenet_wnids()[index] for index in (0, 7)}
    for number, (index, wnid) in enumerate(wnids.items()):
        stems = [f"{wnid}_{i}" for i in range(3)]
        for stem in stems:
            save(picture(rng)[0], image_dir / wnid / f"{stem}.JPEG", format="JPEG")
        of_feature = {10: stems[:2], 11: stems[1:]}
        for feature, named in of_feature.items():
            for stem in named:
                mask = Image.new("L", (224, 224))
                left = 40 if feature == 10 else 150
                ImageDraw.Draw(mask).ellipse([left, 90, left + 30, 130], fill=200)
                save(mask, root / wnid / f"feature_{feature}" / f"{stem}.JPEG", format="JPEG")
            spurious = 3 if (number, feature) == (1, 11) else 2
            for worker in range(5):
                kinds = ("background", "separate_object") if worker < spurious else ("main_object",)
                answer = kinds[worker % len(kinds)]
                place = [wnid, index, feature, feature - 9]
                answers.append([worker, *place, answer, 5, "focus, on the red area"])
        rows = enumerate(zip(*of_feature.values(), strict=True))
        names = root / wnid / "image_names_map.csv"
        write_table(names, ["", *of_feature], *([i, *row] for i, row in rows))
    (root / "wordnet_dict.py").write_text(f"wordnet_dict = {wnids!r}\n")
    (root / "mturk_results").mkdir()
    write_table(root / "mturk_results" / "discover_spurious_features.csv", ANSWERS, *answers)
    return root


def write_imagenet9(root, per_class=1):
    """All variants at 224 x 224, folders with spaces, and boolean masks.

    Mixed images are named for object and background, fg_<id>_bg_<id>, the others for one of them.
    """
    rng = np.random.default_rng(5)
    for number, folder in enumerate(IMAGENET9):
        for i in range(per_class):
            image, mask = picture(rng, (224, 224))
            stem = f"n{number:08d}_{i + 1}"
            for variant in imagenet9.VARIANTS:
                other, _ = picture(rng, (224, 224))
                shown = Image.composite(image, other, mask)
                behind = f"n{rng.integers(10**8):08d}_{rng.integers(50_000)}"
                name = f"fg_{stem}_bg_{behind}" if "mixed" in variant else stem
                save(shown, root / variant / "val" / folder / f"{name}.JPEG", format="JPEG")
            path = root / "fg_mask" / "val" / folder / f"{stem}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, np.asarray(mask) > 0)
    return root


def write_waterbirds(root, per_group=2):
    """metadata.csv with 1-based ids, and images of several sizes."""
    rng = np.random.default_rng(6)
    rows = [["img_id", "img_filename", "y", "split", "place", "place_filename"]]
    for split, group, _ in itertools.product(range(3), range(4), range(per_group)):
        number = len(rows)
        name = f"{number:03d}.Some_Bird/Some_Bird_{number:04d}_{split}.jpg"
        save(picture(rng, (60 + number, 50))[0], root / name, format="JPEG")
        place = ("/b/bamboo_forest/1.jpg", "/o/ocean/2.jpg")[group % 2]
        rows.append([number, name, group // 2, split, group % 2, place])
    write_table(root / "metadata.csv", *rows)
    return root


def write_cifar10(root, num=12, split="test", name="cifar10", side=32):
    """<version>/ of noise images, as scripts/prepare_data.py writes arrays; `root` ends in `name`.

    Its split "train" has ten more.
    """
    from prepare_data import prepare_arrays

    rng, arrays = np.random.default_rng(7), {}
    for part, count in (("train", 10), (split, num)):
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
        arrays[f"{part}_labels"] = np.arange(count) % 10
    root.parent.mkdir(parents=True, exist_ok=True)
    file = root.parent / f"{name}.npz"
    np.savez(file, **arrays)
    prepare_arrays(file, name, root.parent, version="3.0.2")
    file.unlink()
    return root


WRITERS = {
    "imagenet": write_imagenet,
    "imagenet_c": write_imagenet_c,
    "objectnet": write_objectnet,
    "rival10": write_rival10,
    "salient_imagenet": write_salient,
    "imagenet9": write_imagenet9,
    "waterbirds": write_waterbirds,
}


def write_all(root):
    """Every data set under `root`, in the folder that scripts/evaluate.py looks for first."""
    for name, write in WRITERS.items():
        write(root / READERS[name].directories[0])
    return root
