"""Training: parallel text in, a model directory out."""

from .data import ParallelData
from .options import TrainingOptions
from .trainer import Trainer

__all__ = ["ParallelData", "Trainer", "TrainingOptions"]
