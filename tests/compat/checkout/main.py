"""A small program with the imports of the released one, to be run by the launcher."""

import sys
from pathlib import Path

import torch
from dataset.reviews import loader
from efficiency.latency import estimate_latency
from efficiency.mac import compute_mask_mac
from evaluate.accuracy import share_of_right_answers
from prune.fisher import collect_mask_grads
from prune.rearrange import rearrange_mask
from prune.rescale import rescale_mask
from prune.search import search_latency, search_mac
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from utils.schedule import get_pruning_schedule

TOKENS = 9
TABLES = [1.0, 2.0, 3.0, 4.0], [float(n) for n in range(1, 38)]


def search(kind, config, grads, share):
    if kind == "mac":
        return search_mac(config, *grads, TOKENS, share)
    return search_latency(config, *grads, share, *TABLES)


def describe(kind, config, masks):
    if kind == "latency":
        return f"Pruned Model Latency: {estimate_latency(*TABLES, *masks):.2f} ms"
    pruned, original = compute_mask_mac(*masks, TOKENS, config.hidden_size)
    return f"Pruned Model MAC: {pruned / original:.2%}"


def run(folder, kind, share, out):
    model = AutoModelForSequenceClassification.from_pretrained(folder).cuda().eval()
    model.requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(folder, use_auth_token=None)
    config, train = model.config, loader("train", tokenizer)
    layers = config.num_hidden_layers
    whole = [
        torch.ones(layers, width).cuda()
        for width in (config.num_attention_heads, config.intermediate_size)
    ]
    grads = collect_mask_grads(model, *whole, train)
    teacher = search(kind, config, grads, get_pruning_schedule(target=share, num_iter=2)[0])
    found = search(kind, config, grads, share)
    print(describe(kind, config, found))
    moved = list(map(rearrange_mask, found, grads))
    scaled = rescale_mask(model, config, *teacher, *moved, train, classification_task=True)
    torch.save([*found, *scaled], Path(out) / "masks.pt")
    right = share_of_right_answers(model, scaled, loader("validation", tokenizer))
    print(f"Test accuracy: {right:.4f}")


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4])
