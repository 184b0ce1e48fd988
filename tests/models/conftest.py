"""Fixtures of the models' tests."""

import jax
import pytest


@pytest.fixture
def traced_logits():
    """(jitted logits of a model and images, the models that it was traced for)."""
    traces = []

    @jax.jit
    def logits(model, images):
        traces.append(model)
        return model.logits(images)

    return logits, traces
