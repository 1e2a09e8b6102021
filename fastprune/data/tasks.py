"""What a model is for, read from its class."""

from __future__ import annotations

from typing import Any, Literal, get_args

from torch import nn

from fastprune.errors import DataError

Task = Literal[
    "classification",
    "regression",
    "question-answering",
    "causal-lm",
    "embedding",
    "image",
    "segmentation",
]

TASKS: tuple[Task, ...] = get_args(Task)
IMAGE_TASKS: tuple[Task, ...] = ("image", "segmentation")
"""Those of models that see images; ``"image"`` is to tell what is on one."""

# Suffixes of Hugging Face class names. A base model ends in plain "Model".
_BY_SUFFIX: dict[str, Task] = {
    "ForSequenceClassification": "classification",
    "ForQuestionAnswering": "question-answering",
    "ForCausalLM": "causal-lm",
    "LMHeadModel": "causal-lm",
    "ForImageClassification": "image",
    "ForUniversalSegmentation": "segmentation",
    "Model": "embedding",
}


def task_of(model: nn.Module) -> Task:
    """The task of a live model, by its class.

    Raises:
        DataError: the class is none of those fastprune has data for.
    """
    return _by_name(type(model).__name__, getattr(model, "config", None))


def task_of_config(config: Any) -> Task:
    """The task of a configuration, by the architecture it was saved with.

    Raises:
        DataError: the configuration names no architecture, or one without a task.
    """
    architectures = getattr(config, "architectures", None)
    if not architectures:
        raise DataError(
            "the task cannot be told from a configuration without architectures; "
            f"pass task= (one of {', '.join(TASKS)})"
        )
    return _by_name(architectures[0], config)


def _by_name(class_name: str, config: Any) -> Task:
    for suffix, task in _BY_SUFFIX.items():
        if class_name.endswith(suffix):
            return _refine(task, config)
    raise DataError(
        f"no task is known for models of class {class_name}; pass task= (one of {', '.join(TASKS)})"
    )


def _refine(task: Task, config: Any) -> Task:
    if task != "classification":
        return task
    problem = getattr(config, "problem_type", None)
    if problem == "multi_label_classification":
        raise DataError(
            "multi-label classification is not supported; "
            "use a model with problem_type single_label_classification or regression"
        )
    if problem is None and getattr(config, "num_labels", 2) == 1:
        return "regression"
    return "regression" if problem == "regression" else "classification"
