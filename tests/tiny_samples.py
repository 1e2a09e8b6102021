"""Samples for the tiny models, of every task."""

from __future__ import annotations

import torch

from fastprune import Samples


def text_samples(task: str, count: int = 7, *, labels: bool = True) -> Samples:
    generator = torch.Generator().manual_seed(3)
    features = []
    for i in range(count):
        length = 4 + (5 * i) % 9
        ids = torch.randint(5, 60, (length,), generator=generator).tolist()
        features.append({"input_ids": ids, "attention_mask": [1] * length})
    found = {
        "classification": torch.arange(count) % 2,
        "regression": torch.randn(count, generator=generator),
        "question-answering": torch.tensor([[1, 2]] * count),
    }.get(task)
    return Samples(features, found if labels else None, list(range(100, 100 + count)), task)


def image_samples(count: int = 5) -> Samples:
    generator = torch.Generator().manual_seed(3)
    features = [{"pixel_values": torch.randn(3, 8, 8, generator=generator)} for _ in range(count)]
    return Samples(features, torch.arange(count) % 2, list(range(count)), "image", image_tokens=5)


TASKS = {
    "bert": "classification",
    "electra": "classification",
    "distilbert": "classification",
    "roberta": "question-answering",
    "xlm-roberta": "embedding",
    "vit": "image",
    "deit": "image",
}


def samples_for(family: str, **kwargs) -> Samples:
    task = TASKS.get(family, "causal-lm")
    return image_samples() if task == "image" else text_samples(task, **kwargs)
