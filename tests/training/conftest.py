"""What all tests of training share."""

import gc

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def end_of_module():
    """Compiled training steps take much memory: none is kept for another module.

    Tasks that orbax drops of a damaged checkpoint end in the module that damaged it.
    """
    yield
    gc.collect()
    jax.clear_caches()
