"""The released procedures, written out in plain loops: what the drop-in functions must equal."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from scipy.sparse.linalg import lsmr


def descending(values):
    return np.argsort(-values, kind="stable")


def search_mac(head_scores, filter_scores, per_head, per_filter, limit, *, overdraw):
    """For every number of heads: the best heads, then as many of the best filters as fit."""
    heads, filters = head_scores.ravel(), filter_scores.ravel()
    head_order, filter_order = descending(heads), descending(filters)
    best, choice = 0.0, None
    for n in range(1, len(heads) + 1):
        left = limit - n * per_head
        if left < 0 and not overdraw:
            break
        m = max(int(left / per_filter), 0)
        total = heads[head_order[:n]].sum() + filters[filter_order[:m]].sum()
        if total > best:
            best, choice = total, (head_order[:n], filter_order[:m])
    return tuple(
        mask_of(units, scores)
        for units, scores in zip(choice, (head_scores, filter_scores), strict=True)
    )


def mask_of(units, scores):
    mask = np.zeros(scores.size)
    mask[list(units)] = 1
    return mask.reshape(scores.shape)


def ranked(scores, threshold):
    """Per layer: the flat ids of the units that come with the sublayer, and of the others."""
    width = scores.shape[1]
    order = [descending(row) + layer * width for layer, row in enumerate(scores)]
    return [row[:threshold] for row in order], [row[threshold:] for row in order]


def search_latency(head_scores, filter_scores, head_fit, filter_fit, limit, *, released):
    """Drop sublayers, keep what comes with the others, and buy further units one by one."""
    scores = head_scores.ravel(), filter_scores.ravel()
    fits = head_fit, filter_fit
    base, others = zip(
        ranked(head_scores, head_fit.threshold),
        ranked(filter_scores, filter_fit.threshold),
        strict=True,
    )
    drop_order = [
        sorted(range(len(rows)), key=lambda layer, s=s, rows=rows: s[rows[layer]].sum())
        for s, rows in zip(scores, base, strict=True)
    ]
    layers = len(head_scores)
    best, choice = 0.0 if released else -1.0, None
    limit *= 1 if released else 1 + 1e-9  # what fits exactly fits
    for head_drops in range(layers):
        for filter_drops in range(layers):
            gone = drop_order[0][:head_drops], drop_order[1][:filter_drops]
            counts = layers - head_drops, layers - filter_drops
            left = limit - sum(n * fit.c for n, fit in zip(counts, fits, strict=True))
            if released:
                limit = left  # the budget itself is overwritten
            if left < 0:
                continue
            kept_base, pools = [], []
            for kind in range(2):
                alive = [layer for layer in range(layers) if layer not in gone[kind]]
                kept_base.append([unit for layer in alive for unit in base[kind][layer]])
                pool = [unit for layer in range(layers) for unit in others[kind][layer]]
                lost = {unit for layer in gone[kind] for unit in others[kind][layer]}
                worth = np.array([0.0 if u in lost else scores[kind][u] for u in pool])
                order = sorted(range(len(pool)), key=lambda i: (-worth[i], pool[i] in lost))
                if not released:
                    order = [i for i in order if pool[i] not in lost]
                pools.append([(pool[i], worth[i]) for i in order])
            free = sum(scores[k][u] for k in range(2) for u in kept_base[k])
            head_count = counts[0] * (head_scores.shape[1] - head_fit.threshold)
            for n in range(1 if released else 0, head_count + 1):
                money = left - n * head_fit.slope
                m = int(money / filter_fit.slope) if released else money // filter_fit.slope
                if m < 0:
                    break
                bought = pools[0][:n], pools[1][: int(m)]
                total = sum(value for part in bought for _, value in part)
                total += 0.0 if released else free
                if total > best + 1e-9 * abs(best):
                    best = total
                    choice = [[*kept_base[k], *(unit for unit, _ in bought[k])] for k in range(2)]
    return (
        None
        if choice is None
        else (
            mask_of(choice[0], head_scores),
            mask_of(choice[1], filter_scores),
        )
    )


def rearrange(mask, grads):
    """Admit one unit after the other to the pruned set; each time throw one out again."""
    rows = grads.double().numpy().T
    order = np.argsort((grads.numpy() ** 2).sum(0), kind="stable")
    pruned = int((mask == 0).sum())
    if pruned in (0, len(mask)):
        return mask.clone()
    members = list(order[:pruned])
    for unit in order[pruned:]:
        members.append(unit)
        total = rows[members].sum(0)
        lengths = [np.square(total - rows[member]).sum() for member in members]
        members.pop(int(np.argmin(lengths)))
    kept = torch.ones(len(mask))
    kept[members] = 0
    return kept


class Bert:
    """A BERT classifier under masks, with a look at what its sublayers do."""

    def __init__(self, model, batches):
        self.model, self.batches = model, batches
        self.layers = model.bert.encoder.layer
        self.head_width = model.config.hidden_size // model.config.num_attention_heads

    def parts(self, layer, kind):
        block = self.layers[layer]
        if kind == "heads":
            return block.attention.self.query, block.attention.output.dense, self.head_width
        return block.intermediate.dense, block.output.dense, 1

    @contextmanager
    def masked(self, heads, filters):
        with ExitStack() as hooks:
            for layer in range(len(self.layers)):
                for kind, mask in (("heads", heads), ("filters", filters)):
                    _, projection, width = self.parts(layer, kind)
                    columns = mask[layer].repeat_interleave(width)
                    hook = projection.register_forward_pre_hook(
                        lambda _, args, c=columns: (args[0] * c, *args[1:])
                    )
                    hooks.callback(hook.remove)
            yield

    def look(self, masks, layer, kind):
        """Per batch: the input of the projection before its mask, and the residual stream."""
        residual, projection, _ = self.parts(layer, kind)
        seen = {}
        handles = [
            residual.register_forward_pre_hook(lambda _, args: seen.update(residual=args[0])),
            projection.register_forward_pre_hook(lambda _, args: seen.update(x=args[0])),
        ]
        found = []
        with self.masked(*masks):
            for batch in self.batches:
                self.model(**batch)
                found.append((seen["x"], seen["residual"]))
        for handle in handles:
            handle.remove()
        return found

    @torch.no_grad()
    def rescale(self, teacher, student, *, classification, stop):
        """Scale by scale through the layers, every one from two more passes of the whole model."""
        scaled = [mask.clone() for mask in student]
        failures = 0
        for layer in range(len(self.layers)):
            for index, kind in enumerate(("heads", "filters")):
                kept = student[index][layer].nonzero().flatten()
                if (layer, kind) == (0, "heads") or not len(kept):
                    continue
                last = layer == len(self.layers) - 1
                first_token = classification and last and kind == "filters"
                scales = self.solve(teacher, scaled, layer, index, kept, first_token)
                if scales is None:
                    failures += 1
                    if stop:
                        return scaled, failures
                    continue
                scaled[index][layer, kept] *= scales
        return scaled, failures

    def solve(self, teacher, scaled, layer, index, kept, first_token):
        kind = ("heads", "filters")[index]
        _, projection, width = self.parts(layer, kind)
        weight = projection.weight.double()
        matrix, rhs = 0, 0
        pairs = zip(
            self.batches,
            self.look(teacher, layer, kind),
            self.look(scaled, layer, kind),
            strict=True,
        )
        for batch, (x_teacher, r_teacher), (x_student, r_student) in pairs:
            valid = batch["attention_mask"].bool()
            if first_token:
                valid = torch.zeros_like(valid)
                valid[:, 0] = True
            x_teacher, r_teacher, x_student, r_student = (
                t[valid].double() for t in (x_teacher, r_teacher, x_student, r_student)
            )
            if kind == "heads":  # an FFN's target takes no notice of the teacher's own mask
                x_teacher = x_teacher * teacher[0][layer].repeat_interleave(width)
            wanted = x_teacher @ weight.T + r_teacher - r_student
            x_student = x_student * scaled[index][layer].repeat_interleave(width)
            columns = []
            for unit in kept:
                span = slice(unit * width, (unit + 1) * width)
                columns.append((x_student[:, span] @ weight[:, span].T).flatten())
            if kind == "heads":
                columns.append(torch.ones(wanted.numel(), dtype=torch.float64))
            a = torch.stack(columns, dim=1)
            matrix, rhs = matrix + a.T @ a, rhs + a.T @ wanted.flatten()
        around_one = (rhs - matrix.sum(1)).numpy().astype(np.float32)
        matrix = matrix.numpy().astype(np.float32)
        if len(around_one) == 1:
            deviation, reason = around_one / matrix[0, 0], 1
        else:
            limit = 5 * len(around_one)
            with np.errstate(over="ignore"):
                deviation, reason, *_ = lsmr(matrix, around_one, damp=1, maxiter=limit)
        scales = 1 + torch.from_numpy(deviation[: len(kept)]).float()
        return None if reason > 2 or scales.abs().max() > 10 else scales
