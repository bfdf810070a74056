"""Training: parallel text in, a model directory out."""

from .data import ParallelData
from .trainer import Trainer, TrainingOptions

__all__ = ["ParallelData", "Trainer", "TrainingOptions"]
