"""Adversarial training: train(config, workdir), and the pure step under it."""

from advspur.training.loop import TrainingDiverged, TrainingStopped, train
from advspur.training.run_dir import record_training, training_records
from advspur.training.state import TrainState
from advspur.training.step import Attack, eval_step, make_eval_step, make_train_step, train_step

__all__ = [
    "Attack",
    "TrainState",
    "TrainingDiverged",
    "TrainingStopped",
    "eval_step",
    "make_eval_step",
    "make_train_step",
    "record_training",
    "train",
    "train_step",
    "training_records",
]
