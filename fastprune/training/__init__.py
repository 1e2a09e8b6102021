"""Training, where there is time for it: on the Trainer of transformers, with checkpoints."""

from fastprune.training.choices import Training
from fastprune.training.finetuning import Finetuned, finetune

__all__ = ["Finetuned", "Training", "finetune"]
