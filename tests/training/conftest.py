"""What all tests of training share."""

import gc

import pytest


@pytest.fixture(scope="module", autouse=True)
def dropped_tasks_stay_here():
    """Tasks that orbax drops of a damaged checkpoint end in the module that damaged it."""
    yield
    gc.collect()
