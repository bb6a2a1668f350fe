"""Training: the trainer, optimizers, losses and metrics by name, history."""

from fastsgd.training.checkpoint import Checkpoint
from fastsgd.training.history import History
from fastsgd.training.optimizers import SGD
from fastsgd.training.trainer import Trainer

__all__ = ["SGD", "Checkpoint", "History", "Trainer"]
