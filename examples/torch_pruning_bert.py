"""Torch-Pruning with fastprune's Fisher information: half the heads and filters of a classifier.

    python examples/torch_pruning_bert.py MODEL --train train.tsv --eval dev.tsv --out smaller

Needs ``pip install torch-pruning``. What comes out is an ordinary Hugging Face directory, which
``fastprune.load_pretrained`` rebuilds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from transformers import AutoModelForSequenceClassification, AutoTokenizer

import fastprune

try:
    import torch_pruning as tp

    from fastprune.compat.torch_pruning import FisherImportance
except ImportError:
    raise SystemExit("this example needs Torch-Pruning: pip install torch-pruning") from None


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="a directory or a hub id")
    parser.add_argument("--train", required=True, help="calibration data with labels")
    parser.add_argument("--eval", help="data to score on")
    parser.add_argument("--out", required=True, help="directory to write")
    parser.add_argument("--ratio", type=float, default=0.5, help="share of each layer to remove")
    parser.add_argument("--samples", type=int, default=512)
    args = parser.parse_args(arguments)

    model = AutoModelForSequenceClassification.from_pretrained(args.model)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    samples = fastprune.load_samples(
        args.train, tokenizer, model_config=model.config, limit=args.samples, at_most=True
    )
    inputs = dict(tokenizer("Any sentence will do.", return_tensors="pt"))
    before = tp.utils.count_ops_and_params(model, inputs)

    importance = FisherImportance(model, samples)
    pruner = tp.pruner.BasePruner(
        model,
        inputs,
        importance,
        pruning_ratio=args.ratio,
        head_pruning_ratio=args.ratio,
        output_transform=lambda output: output.logits.sum(),
        **importance.options(),
    )
    pruner.step()
    importance.finish()

    after = tp.utils.count_ops_and_params(model, inputs)
    for name, old, new in zip(("MACs", "parameters"), before, after, strict=True):
        print(f"{name}: {old / 1e6:.1f}M -> {new / 1e6:.1f}M")
    if args.eval:
        held_out = fastprune.load_samples(
            args.eval, tokenizer, model_config=model.config, split="eval"
        )
        print(f"score without retraining: {fastprune.evaluate(model, held_out):.4f}")
    fastprune.save_pretrained(model, args.out)
    tokenizer.save_pretrained(args.out)


if __name__ == "__main__":
    main()
