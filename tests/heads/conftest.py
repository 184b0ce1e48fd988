"""Fixtures of the heads' tests."""

import pytest


@pytest.fixture(autouse=True, scope="module")
def quick(quick_programs):
    """What is fitted does not depend on how fast it is."""
