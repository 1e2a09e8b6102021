"""A script of our own that imports and calls what the released main.py does, in the same way."""

import argparse
import os

import torch
from dataset.reviews import batches
from efficiency.latency import estimate_latency
from efficiency.mac import compute_mask_mac
from evaluate.accuracy import accuracy
from prune.fisher import collect_mask_grads
from prune.rearrange import rearrange_mask
from prune.rescale import rescale_mask
from prune.search import search_latency, search_mac
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from utils.schedule import get_pruning_schedule

parser = argparse.ArgumentParser()
parser.add_argument("--model_name", required=True)
parser.add_argument("--metric", default="mac")
parser.add_argument("--constraint", type=float, required=True)
parser.add_argument("--output_dir", required=True)


def main():
    args = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = "0"
    config = AutoConfig.from_pretrained(args.model_name)
    model = AutoModelForSequenceClassification.from_pretrained(args.model_name, config=config)
    tokenizer = AutoTokenizer.from_pretrained(args.model_name, use_fast=True, use_auth_token=None)
    dataloader = batches("train", tokenizer)
    model = model.cuda()
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    full_head_mask = torch.ones(config.num_hidden_layers, config.num_attention_heads).cuda()
    full_neuron_mask = torch.ones(config.num_hidden_layers, config.intermediate_size).cuda()
    grads = collect_mask_grads(model, full_head_mask, full_neuron_mask, dataloader)
    teacher_constraint = get_pruning_schedule(target=args.constraint, num_iter=2)[0]
    if args.metric == "mac":
        teacher = search_mac(config, *grads, 9, teacher_constraint)
        found = search_mac(config, *grads, 9, args.constraint)
        pruned, original = compute_mask_mac(*found, 9, config.hidden_size)
        print(f"Pruned Model MAC: {pruned / original * 100.0:.2f} %")
    else:
        luts = [[1.0 + n for n in range(width)] for width in (4, 37)]
        teacher = search_latency(config, *grads, teacher_constraint, *luts)
        found = search_latency(config, *grads, args.constraint, *luts)
        print(f"Pruned Model Latency: {estimate_latency(*luts, *found):.2f} ms")
    masks = [rearrange_mask(mask, rows) for mask, rows in zip(found, grads, strict=True)]
    masks = rescale_mask(model, config, *teacher, *masks, dataloader, classification_task=True)
    torch.save([*found, *masks], os.path.join(args.output_dir, "masks.pt"))
    print(f"Test accuracy: {accuracy(model, *masks, batches('validation', tokenizer)):.4f}")


if __name__ == "__main__":
    main()
