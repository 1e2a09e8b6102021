from __future__ import annotations

import pytest
import torch
from tiny_models import tiny
from tiny_samples import samples_for, text_samples

from fastprune import Statistics, collect_statistics
from fastprune.errors import CheckpointError, DataError


@pytest.fixture(scope="module")
def model():
    return tiny("bert").float()


@pytest.mark.parametrize(
    ("family", "targets"),
    [
        ("bert", "labels"),
        ("bert", "model"),
        ("gpt2", "labels"),
        ("gpt2", "model"),
        ("xlm-roberta", "model"),
    ],
)
def test_shards_add_up_to_the_whole(family, targets):
    model = tiny(family).float()
    samples = samples_for(family, count=8)
    whole = collect_statistics(model, samples, targets=targets)
    parts = [
        collect_statistics(model, samples.select(p), targets=targets)
        for p in (range(3), range(3, 8))
    ]
    together = parts[0] + parts[1]
    scale = whole.blocks.abs().max()
    assert (together.blocks - whole.blocks).abs().max() <= 1e-4 * scale
    assert (together.rows, together.samples, together.tokens) == (8, 8, whole.tokens)
    assert together.mean_length == samples.mean_length


def test_importance_is_the_diagonal(model):
    statistics = collect_statistics(model, text_samples("classification"))
    diagonals = [statistics.block(i).diagonal() for i in range(len(statistics.sizes))]
    assert torch.equal(statistics.importance(), torch.cat(diagonals))
    assert (statistics.importance() >= 0).all()


def test_saved_and_loaded_they_are_the_same(model, tmp_path):
    statistics = collect_statistics(model, text_samples("classification"))
    statistics.save(tmp_path / "fisher.safetensors")
    loaded = Statistics.load(tmp_path / "fisher.safetensors")
    assert torch.equal(loaded.blocks, statistics.blocks)
    assert (loaded + statistics).samples == 2 * statistics.samples
    assert [p.name for p in tmp_path.iterdir()] == ["fisher.safetensors"]


def test_different_models_or_kinds_do_not_add_up(model):
    samples = text_samples("classification")
    ours = collect_statistics(model, samples)
    with pytest.raises(DataError):
        ours + collect_statistics(tiny("bert", num_hidden_layers=2).float(), samples)
    with pytest.raises(DataError):
        ours + collect_statistics(model, samples, fisher="batch")
    with pytest.raises(DataError):
        ours + collect_statistics(model, samples, targets="labels")


@pytest.mark.parametrize("damage", ["missing", "garbage", "truncated", "foreign"])
def test_damaged_files_are_named(model, tmp_path, damage):
    path = tmp_path / "fisher.safetensors"
    if damage == "garbage":
        path.write_bytes(b"not statistics")
    elif damage == "truncated":
        collect_statistics(model, text_samples("classification")).save(path)
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "foreign":
        from safetensors.torch import save_file

        save_file({"blocks": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match=r"fisher\.safetensors"):
        Statistics.load(path)


def test_an_unwritable_place_is_named_and_nothing_is_left(model, tmp_path):
    statistics = collect_statistics(model, text_samples("classification"))
    with pytest.raises(CheckpointError, match="cannot write"):
        statistics.save(tmp_path / "missing" / "fisher.safetensors")
    assert not list(tmp_path.iterdir())
