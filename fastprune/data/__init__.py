"""Samples: from files, tasks, texts and DataLoaders to padded batches."""

from fastprune.data.load import load_samples
from fastprune.data.samples import Padding, Samples
from fastprune.data.tasks import TASKS, Task, task_of

__all__ = ["TASKS", "Padding", "Samples", "Task", "load_samples", "task_of"]
