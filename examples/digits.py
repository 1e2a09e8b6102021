#!/usr/bin/env python
"""A small vision transformer trained on handwritten digits, and everything needed to prune it.

    python examples/digits.py digits
    fastprune compare digits/model --train digits/train.parquet --eval digits/validation.parquet \\
        --out digits/comparison

The 1,797 images of 8 x 8 pixels come with scikit-learn: nothing is downloaded. A quarter of them,
the same share of every digit, is held out. Training takes a minute or two on two cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from datasets import Dataset
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from tqdm import trange
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

EPOCHS = 40
BATCH = 64


def images() -> tuple[Tensor, Tensor]:
    """All digits, float32 [images, 1, 8, 8] from -1 to 1, and their labels."""
    pixels, labels = load_digits(return_X_y=True)
    scaled = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1
    return scaled, torch.tensor(labels)


def model() -> ViTForImageClassification:
    """Four layers of four heads and 192 filters; 16 patches of 2 x 2 pixels."""
    config = ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=1,
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=192,
        num_labels=10,
    )
    return ViTForImageClassification(config)


def train(pixels: Tensor, labels: Tensor, epochs: int = EPOCHS) -> ViTForImageClassification:
    """Fit a model, with a learning rate that falls as a cosine."""
    torch.manual_seed(0)
    fitted = model().train()
    optimizer = torch.optim.AdamW(fitted.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in trange(epochs, desc="train", unit="epoch"):
        for rows in torch.randperm(len(pixels)).split(BATCH):
            logits = fitted(pixels[rows]).logits
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits, labels[rows]).backward()
            optimizer.step()
        schedule.step()
    return fitted.eval()


def save(path: Path, pixels: Tensor, labels: Tensor) -> None:
    Dataset.from_dict({"pixel_values": pixels.tolist(), "label": labels.tolist()}).to_parquet(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="a directory that is not there yet")
    out = parser.parse_args().out
    if out.exists():
        parser.error(f"{out} exists; name another directory")
    pixels, labels = images()
    split = train_test_split(pixels, labels, test_size=0.25, random_state=0, stratify=labels)
    fitting, held_out, fitting_labels, held_out_labels = split
    fitted = train(fitting, fitting_labels)
    with torch.no_grad():
        right = (fitted(held_out).logits.argmax(-1) == held_out_labels).float().mean()
    out.mkdir(parents=True)
    fitted.save_pretrained(out / "model")
    ViTImageProcessor(
        size={"height": 8, "width": 8}, do_rescale=False, do_normalize=False
    ).save_pretrained(out / "model")
    save(out / "train.parquet", fitting, fitting_labels)
    save(out / "validation.parquet", held_out, held_out_labels)
    print(f"{len(held_out)} images were held out, {float(right):.1%} of them are read right")
    print(f"saved to {out}")


if __name__ == "__main__":
    main()
