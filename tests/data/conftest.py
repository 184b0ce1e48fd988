"""Fixtures of the data sets' tests."""

import shutil

import pytest


@pytest.fixture
def root(written, tmp_path):
    """A copy of what the module's `written` wrote, to damage."""
    return shutil.copytree(written, tmp_path / "copy")
