"""Adversarial training: train(config, workdir), and the pure step under it."""

from advspur.training.attack import Attack, FreeAttack
from advspur.training.loop import TrainingStopped, train
from advspur.training.run import TrainingDiverged
from advspur.training.run_dir import record_training
from advspur.training.state import TrainState
from advspur.training.step import eval_step, make_eval_step, make_train_step, train_step
from advspur.training.suite import train_suite

__all__ = [
    "Attack",
    "FreeAttack",
    "TrainState",
    "TrainingDiverged",
    "TrainingStopped",
    "eval_step",
    "make_eval_step",
    "make_train_step",
    "record_training",
    "train",
    "train_step",
    "train_suite",
]
