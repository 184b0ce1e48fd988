"""Fixtures of the measures' tests."""

import pytest


@pytest.fixture(autouse=True, scope="module")
def quick(quick_programs):
    """What is measured does not depend on how fast it is."""
