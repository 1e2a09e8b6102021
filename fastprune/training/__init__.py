"""Training, where there is time for it: on the Trainer of transformers, with checkpoints."""

from fastprune.training.choices import Training

__all__ = ["Training"]
