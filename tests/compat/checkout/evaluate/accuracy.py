import torch
from datasets import load_metric
from utils.hooks import apply_neuron_mask


@torch.no_grad()
def accuracy(model, head_mask, neuron_mask, dataloader):
    metric = load_metric("glue", "sst2")
    handles = apply_neuron_mask(model, neuron_mask)
    for batch in dataloader:
        for k, v in batch.items():
            batch[k] = v.to("cuda", non_blocking=True)
        outputs = model(head_mask=head_mask, **batch)
        metric.add_batch(predictions=outputs.logits.argmax(dim=-1), references=batch["labels"])
    for handle in handles:
        handle.remove()
    return metric.compute()["accuracy"]
