"""The paper's suite on CIFAR-10 from its files to the page, at a size that a laptop can do."""

import io

import numpy as np
import pytest
from PIL import Image
from prepare_data import prepare_arrays

from advspur.models import resnet
from advspur.records import read_records
from tests import forked

NUM_TRAIN, NUM_TEST = 64, 40


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Smooth images that have been JPEG files, as array_record."""
    folder, rng = tmp_path_factory.mktemp("cifar"), np.random.default_rng(0)

    def through_jpeg(colors):
        file = io.BytesIO()
        Image.fromarray(colors).resize((32, 32), Image.Resampling.BICUBIC).save(file, "JPEG")
        return np.asarray(Image.open(file))

    arrays = {}
    for split, count in (("train", NUM_TRAIN), ("test", NUM_TEST)):
        colors = rng.integers(0, 256, (count, 4, 4, 3), np.uint8)
        arrays[f"{split}_images"] = np.stack([through_jpeg(c) for c in colors])
        arrays[f"{split}_labels"] = np.arange(count) % 10
    np.savez(folder / "cifar10.npz", **arrays)
    prepare_arrays(folder / "cifar10.npz", "cifar10", folder, version="3.0.2")
    return folder


def test_the_suite_on_cifar_is_reproduced_from_its_files(data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(resnet, "ARCHITECTURES", resnet.ARCHITECTURES | forked.SHALLOW)
    small = {
        "data_dir": data_dir,
        "arch": "resnet_small",
        "batch_size": 16,
        "num_steps": 3,
        "attack.num_steps": 1,
        "validation.num_steps": 1,
        "validation.num_examples": 16,
        "suite.rhos": "1,9",
        "suite.seeds": "0,",
        "suite.linf_epsilons": "8/255,",
        "evaluation.batch_size": 16,
        "evaluation.data.allow_partial": True,
        "evaluation.pgd.num_steps": 1,
        "evaluation.pgd.num_attacked": 16,
        "evaluation.autoattack.num_images": 4,
        "evaluation.autoattack.batch_size": 16,
    }
    arguments = forked.flags("cifar10_color_shift", tmp_path / "suite", small)
    code, out, err = forked.run(tmp_path / "said", "reproduce", *arguments)
    assert code == 0 and "report.html: 6 models" in out, err
    records = read_records(tmp_path / "suite" / "records.jsonl")
    assert len({r.model for r in records}) == 6
    assert {"pgd_accuracy", "autoattack_accuracy"} <= {r.metric for r in records}
    assert (tmp_path / "suite" / "report.html").is_file()
