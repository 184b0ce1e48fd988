"""What all tests of training share."""

import functools
import gc

import jax
import pytest

from advspur.models import resnet
from advspur.training import loop, parts, suite
from tests.forked import SHALLOW


@pytest.fixture(scope="module", autouse=True)
def programs_of_a_module():
    """Compiled once for equal configs.

    Compiled training steps take much memory: none is kept for another module. Tasks that orbax
    drops of a damaged checkpoint end in the module that damaged it.
    """
    built, build = {}, parts.build
    apart = ("seed", "background", "validation", "early_stopping", "best_metric", "keep_last")

    def build_once(config, dataset):
        values = config.to_dict().items()
        key = str([v for k, v in values if k not in apart and "every" not in k]), id(dataset.train)
        if key not in built:
            built[key] = build(config, dataset)
        return built[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resnet, "ARCHITECTURES", resnet.ARCHITECTURES | SHALLOW)
        patch.setattr(parts, "build", build_once)
        makers = (loop, "make_train_step"), (loop, "make_eval_step"), (suite, "over_models")
        for module, name in makers:
            patch.setattr(module, name, functools.cache(getattr(module, name)))
        yield
    gc.collect()
    jax.clear_caches()
