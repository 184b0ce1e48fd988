"""Training on users' own data, from the table to the evaluation of what was trained."""

import itertools
import json
import shutil

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from advspur import models
from advspur.benchmarks import own_benchmark
from advspur.benchmarks.own import choose_head
from advspur.data import open_dataset, spurious_shapes
from advspur.data.augment import AUGMENTATIONS
from advspur.models.store import directory_facts
from advspur.training import train
from advspur.training.parts import training_batches, training_data
from advspur.training.run import Run
from tests.refusals import refused
from tests.training.tiny_config import get_config

NAMES = ("zebra", "ant", "cat")  # of the labels, not in sorted order
SIZE = 16
WIDE = 40, 24  # width and height of the files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A manifest with train, val and test; images are grey and their own masks."""
    root = tmp_path_factory.mktemp("own")
    rows = ["image,label,split,mask,place"]
    for part, split, count in (("train", "train", 32), ("validation", "val", 12)):
        columns = spurious_shapes(part, num_examples=count, num_classes=3, image_size=32).columns
        for i, (image, label) in enumerate(zip(columns["image"], columns["label"], strict=True)):
            name = f"{split}_{i}.png"
            Image.fromarray(image).convert("L").resize(WIDE).save(root / name)
            rows.append(f"{name},{NAMES[label]},{split},{name},{'land' if i % 2 else 'sea'}")
    (root / "manifest.csv").write_text("\n".join(rows) + "\n")
    return root


def own_config(folder, **change):
    config = get_config()
    config.dataset, config.data_dir, config.own.image_size = "own", str(folder), SIZE
    config.update_from_flattened_dict({"attack.epsilon": 0.0, "num_steps": 3, **change})
    return config


def batches(config, count=3):
    run = Run(config, "nowhere", training_data(config), None)
    return list(itertools.islice(training_batches(run), count))


def test_parts_classes_and_masks_are_those_of_the_table(folder):
    dataset = training_data(own_config(folder))
    assert (len(dataset.train), len(dataset.validation)) == (32, 12)
    assert (dataset.image_size, dataset.num_classes) == (SIZE, 3)
    assert dataset.train.names["label"] == ("ant", "cat", "zebra") and dataset.train.has_mask
    by_file = open_dataset("own", data_dir=folder / "manifest.csv", own={"image_size": SIZE})
    assert_array_equal(by_file.train.columns["label"], dataset.train.columns["label"])


@pytest.mark.parametrize("augmentation", ("auto", *AUGMENTATIONS))
def test_every_augmentation_takes_images_and_masks_together(folder, augmentation, monkeypatch):
    monkeypatch.setattr("advspur.data.augment.jitter_colors", lambda images, _: images)
    monkeypatch.setattr("advspur.data.augment.PCA_VALUES", np.zeros(3))
    for batch in batches(own_config(folder, augmentation=augmentation)):
        assert batch.image.shape == (16, SIZE, SIZE, 3)
        assert_array_equal(batch.image[..., :1], batch.mask)


def test_random_crops_are_of_all_of_an_image_and_others_of_what_is_evaluated(tmp_path):
    """The left and right ends of a wide image, of another colour, are outside its centre."""
    image = np.full((20, 80, 3), 128, np.uint8)
    image[:, :20], image[:, 60:] = 255, 255
    for name in ("train/a/x.png", "train/b/y.png", "val/a/x.png", "val/b/y.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / name)
    for augmentation, sees_ends in (("none", False), ("flip", False), ("imagenet", True)):
        config = own_config(tmp_path, augmentation=augmentation)
        images = np.concatenate([batch.image for batch in batches(config)])
        assert (images.max() > 200) == sees_ends, augmentation
    square = own_config(tmp_path, augmentation="none", **{"own.resize": "square"})
    assert max(batch.image.max() for batch in batches(square)) > 200  # as it is evaluated


def test_only_the_cores_masks_are_trained_with(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    table = tmp_path / "copy" / "manifest.csv"
    lines = table.read_text().splitlines()
    lines = [f"{line},{line.split(',')[3]}" for line in lines]
    lines[0] = "image,label,split,mask,place,spurious_mask"
    table.write_text("\n".join(lines))
    assert training_data(own_config(table)).train[0]["mask"].shape[-1] == 2
    one, other = batches(own_config(folder), 1), batches(own_config(table), 1)
    assert_array_equal(other[0].mask, one[0].mask)
    assert other[0].mask.shape == (16, SIZE, SIZE, 1)


def test_data_that_cannot_be_trained_on_are_refused(folder, tmp_path):
    refused("needs data_dir", training_data, own_config(""))
    refused("no data in .*nowhere", training_data, own_config(tmp_path / "nowhere"))
    refused("no images in|no data in", training_data, own_config(tmp_path))
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "one.png").write_bytes((folder / "val_0.png").read_bytes())
    message = "has no part train and no part val, only test: training needs train and val"
    refused(message, training_data, own_config(tmp_path))
    text = (folder / "manifest.csv").read_text()
    (tmp_path / "none.csv").write_text(text.splitlines()[0])
    refused("none.csv has no rows", training_data, own_config(tmp_path / "none.csv"))
    (folder / "unsplit.csv").write_text(text.replace(",val,", ",test,"))
    refused("has no part val, only train, test", training_data, own_config(folder / "unsplit.csv"))
    bare = text.replace("mask", "other", 1)
    (folder / "bare.csv").write_text(bare)
    noisy = {"background.noise_std": 0.1, "own.columns.attributes": "place"}
    config = own_config(folder / "bare.csv", **noisy)
    refused("config.background needs masks, and Table.* has none", train, config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    for name in ("unsplit.csv", "bare.csv"):
        (folder / name).unlink()


@pytest.mark.parametrize("kind", ("truncated", "of another size"))
def test_a_mask_that_is_wrong_is_named_with_its_line(folder, tmp_path, kind):
    root = shutil.copytree(folder, tmp_path / "copy")
    content = (root / "train_0.png").read_bytes()
    if kind == "truncated":
        (root / "bad.png").write_bytes(content[:60])
    else:
        Image.new("L", (WIDE[1], WIDE[0])).save(root / "bad.png")
    text = (root / "manifest.csv").read_text()
    (root / "manifest.csv").write_text(text.replace("train,train_0.png", "train,bad.png"))
    message = "bad.png is not a readable" if kind == "truncated" else "bad.png is 24 x 40, its"
    for augmentation in ("none", "imagenet"):
        config = own_config(root, augmentation=augmentation)
        refused(rf"{message}.*manifest.csv line 2\)", batches, config)
    if kind == "truncated":
        with pytest.warns(UserWarning, match="train: 1 of 32 images are unreadable and left out"):
            config = own_config(root, skip_unreadable=True)
            assert len(training_data(config).train) == 31


def test_a_model_knows_its_classes_when_it_is_evaluated(folder, tmp_path):
    """Also on a table that has them in another order."""
    change = {"background.noise_std": 0.2, "background.mix_share": 0.5}
    config = own_config(folder, **change)
    train(config, tmp_path / "run")
    facts = directory_facts(tmp_path / "run")
    assert (facts["dataset"], facts["image_size"]) == ("own", SIZE)
    assert facts["class_names"] == ["ant", "cat", "zebra"]
    model = models.load(tmp_path / "run")
    assert model.class_names == ("ant", "cat", "zebra")

    row = own_benchmark(folder, name="shapes")
    options = row.complete({"data": {"image_size": SIZE}})
    parts = row.load(None, options["data"])
    groups, line = choose_head(facts, parts)
    assert_array_equal(groups, range(3))
    assert line == "classes: by name, the model's 3 in the same order"
    text = (folder / "manifest.csv").read_text()
    (folder / "numbers.csv").write_text(text)
    for label, name in enumerate(NAMES):
        numbers = (folder / "numbers.csv").read_text().replace(f",{name},", f",{label},")
        (folder / "numbers.csv").write_text(numbers)
    renamed = own_benchmark(folder / "numbers.csv", name="shapes")
    options["data"]["names"] = {"label": NAMES}
    groups, line = choose_head(facts, renamed.load(None, options["data"]))
    assert [NAMES[group] for group in groups] == ["ant", "cat", "zebra"]
    assert "in another order" in line
    (folder / "numbers.csv").unlink()

    # Data of another place are another run's, whatever their classes.
    config.data_dir = str(folder / "manifest.csv")
    refused("holds a run with a different config .data_dir", train, config, tmp_path / "run")

    file = tmp_path / "run" / "model.json"
    for bad in (["ant"], "ant", [1, 2, 3]):
        file.write_text(json.dumps(facts | {"class_names": bad}))
        refused("model.json is damaged: it lacks class_names", models.load, tmp_path / "run")
