"""CoFi (Xia, Zhong, Chen 2022): gates over coarse and fine parts of a model, trained with it."""

from fastprune.cofi.choices import GateTraining

__all__ = ["GateTraining"]
