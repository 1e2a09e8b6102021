from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel, ViTConfig, ViTModel

from fastprune.errors import FastpruneError
from fastprune.evaluation import measure_latency

SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


def recorded(model, log, name):
    def record(module, args, kwargs):
        shapes = {key: tuple(value.shape) for key, value in kwargs.items()}
        log.append((name, shapes, module.training, torch.is_grad_enabled()))

    model.register_forward_pre_hook(record, with_kwargs=True)
    return model


def bert(**sizes):
    return BertModel(BertConfig(**{**SMALL, "vocab_size": 40, **sizes}))


def test_models_take_turns_on_equal_inputs():
    log = []
    models = {name: recorded(bert(), log, name).train() for name in ("dense", "pruned")}
    times = measure_latency(models, batch=3, length=7, repeats=4, warmup=2)
    assert list(times) == ["dense", "pruned"]
    assert all(time > 0 for time in times.values())
    # An untimed pass and a timed one, in alternating order.
    assert len(log) == 2 * 2 * (4 + 2)
    names = [name for name, *_ in log]
    assert names[::2] == names[1::2]
    assert names[0] != names[2]
    assert names[:4] == names[4:8][::-1]
    shapes = {"input_ids": (3, 7), "attention_mask": (3, 7)}
    assert all(entry[1:] == (shapes, False, False) for entry in log)
    assert all(model.training for model in models.values())


def test_more_work_takes_longer():
    small, large = bert(), bert(hidden_size=64, num_hidden_layers=8, intermediate_size=512)
    times = measure_latency({"small": small, "large": large}, batch=4, length=32, repeats=3)
    assert times["large"] > times["small"]


def test_images_have_the_size_of_the_configuration():
    log = []
    config = ViTConfig(**SMALL, image_size=8, patch_size=4)
    measure_latency({"vit": recorded(ViTModel(config), log, "vit")}, batch=2, repeats=1, warmup=0)
    assert log[0][1] == {"pixel_values": (2, 3, 8, 8)}


def test_the_longest_input_a_model_takes_can_be_measured():
    model = RobertaModel(
        RobertaConfig(**SMALL, vocab_size=20, max_position_embeddings=18, pad_token_id=1)
    )
    assert measure_latency({"roberta": model}, batch=64, length=16, repeats=1, warmup=0)
    with pytest.raises(FastpruneError, match="at 17 tokens: the model takes 16"):
        measure_latency({"roberta": model}, batch=1, length=17)


@pytest.mark.parametrize("wrong", ["batch", "length", "repeats"])
def test_nothing_to_measure(wrong):
    with pytest.raises(FastpruneError, match="1 or more"):
        measure_latency({"bert": bert()}, **{wrong: 0})


def test_memory_that_passes_free_is_kept_for_the_next():
    """In a process of its own: its heap has not seen a large block yet."""
    code = """
import resource, sys, torch
from fastprune.device import settle_allocator

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.zeros(6 << 20, dtype=torch.uint8) for _ in range(4)]
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

for _ in range(3):
    as_it_was = faults()
settle_allocator()
for _ in range(3):
    settled = faults()
print(as_it_was, settled)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    as_it_was, settled = map(int, run.stdout.split())
    if as_it_was < 3072:  # half of the pages that the blocks fill
        pytest.skip("this system's allocator keeps freed memory anyway")
    assert settled < 64
