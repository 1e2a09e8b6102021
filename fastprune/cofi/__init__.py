"""CoFi (Xia, Zhong, Chen 2022): gates over coarse and fine parts of a model, trained with it."""

from fastprune.cofi.choices import GateTraining
from fastprune.cofi.train import Cofi, Task, Trained

__all__ = ["Cofi", "GateTraining", "Task", "Trained"]
