"""What all tests of training share."""

import gc

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def programs_of_a_module(quick_programs):
    """Compiled quickly, as what is tested is not how fast they are, in subprocesses too.

    Compiled training steps take much memory: none is kept for another module. Tasks that orbax
    drops of a damaged checkpoint end in the module that damaged it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        yield
    gc.collect()
    jax.clear_caches()
