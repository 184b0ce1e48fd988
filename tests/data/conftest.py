"""Fixtures of the data sets' tests."""

import shutil

import jax
import pytest

from tests.data.fake_layouts import WRITERS, write_cifar10


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """The folder with a small copy of every data set, not to be changed."""
    root = tmp_path_factory.mktemp("data")
    for name, write in WRITERS.items():
        write(root / name, **({"per_class": 2} if name == "imagenet9" else {}))
    write_cifar10(root / "cifar10", 60)
    return root


@pytest.fixture
def in_processes(monkeypatch):
    """in_processes(count, read): what read() returns in each of `count` processes."""

    def call(count, read):
        results = []
        with monkeypatch.context() as patch:
            patch.setattr(jax, "process_count", lambda: count)
            for index in range(count):
                patch.setattr(jax, "process_index", lambda index=index: index)
                results.append(read())
        return results

    return call


@pytest.fixture
def copy(written, tmp_path):
    """copy(name): the folder of a copy to damage, with ImageNet's photographs beside it."""

    def call(name):
        if name == "salient_imagenet":
            shutil.copytree(written / "imagenet" / "train", tmp_path / "imagenet" / "train")
        return shutil.copytree(written / name, tmp_path / name)

    return call
