"""The label maps against the fact files, and against ObjectNet's own mapping files."""

import json

import numpy as np

from advspur.data import label_maps
from advspur.data.label_maps import IMAGENET9, OBJECTNET, RIVAL10, imagenet_wnids


def facts(shared, name):
    return json.loads((shared / "facts" / f"{name}.json").read_text())


def test_wnids_are_the_1000_in_model_order(shared):
    rows = facts(shared, "imagenet_wnids")["classes"]
    assert list(imagenet_wnids()) == [wnid for _, wnid, _ in rows]
    assert list(imagenet_wnids()) == sorted(imagenet_wnids())


def test_imagenet9_map_is_the_official_one(shared):
    expected = np.full(1000, -1)
    classes = facts(shared, "imagenet9_index_ranges")["classes"]
    for c in classes:
        for part in c["ranges"]:
            first, last = part if isinstance(part, list) else (part, part)
            expected[first : last + 1] = c["label"]
    np.testing.assert_array_equal(label_maps.imagenet9_map(), expected)
    assert list(IMAGENET9) == [c["release_dir"] for c in classes]


def test_objectnet_map_is_the_official_one(shared):
    rows = facts(shared, "objectnet_imagenet_map")["classes"]
    assert OBJECTNET == {folder: tuple(indices) for _, folder, indices in rows}


def test_objectnet_map_follows_from_the_mapping_files_of_the_release(shared):
    """Folder -> class names -> line of the 2012 list -> model index, by names alone."""
    root = shared / "data" / "objectnet"
    lines = (root / "imagenet_to_label_2012_v2").read_text().splitlines()
    of_model = json.loads((root / "pytorch_to_imagenet_2012_id.json").read_text())
    of_names = {}  # "crane" names two classes: keep all
    for index, number in of_model.items():
        of_names.setdefault(lines[number].strip(), []).append(int(index))
    labels = json.loads((root / "folder_to_objectnet_label.json").read_text())
    classes = json.loads((root / "objectnet_to_imagenet_1k.json").read_text())
    derived = {
        folder: sorted(i for name in classes[label].split("; ") for i in of_names[name.strip()])
        for folder, label in labels.items()
        if label in classes
    }
    assert derived == {folder: sorted(indices) for folder, indices in OBJECTNET.items()}
    groups = label_maps.objectnet_map()
    assert np.sum(groups >= 0) == 125 and groups.max() == 112


def test_rival10_labels_are_not_cifars(shared):
    rows = facts(shared, "rival10_wnids")
    assert list(RIVAL10) == rows["labels"]
    assert label_maps.rival10_labels() == {c["wnid"]: c["rival10_label"] for c in rows["classes"]}
