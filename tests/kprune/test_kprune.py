"""K-prune from end to end on tiny models."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_models import FAMILIES, random_masks, tiny
from tiny_samples import samples_for, text_samples

import fastprune
from fastprune import compact, find_sites, parse_budget, prune
from fastprune.budget import price_sites
from fastprune.errors import BudgetError, FastpruneError
from fastprune.kprune import Reference, kprune
from fastprune.kprune import prune as room
from fastprune.kprune.scores import Scores
from fastprune.report import Stopwatch
from fastprune.tuning import TUNERS, tune

HALF = parse_budget(0.5)


def same(ours, theirs):
    pairs = zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True)
    return all(name == other and torch.equal(a, b) for (name, a), (other, b) in pairs)


def heads(found, model):
    return sum(int(found.masks[s.name].sum()) for s in find_sites(model) if s.kind == "attention")


@pytest.mark.parametrize("budget", ["macs=0.5", "params=0.2"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_comes_out_is_what_its_masks_and_tuning_give(family, budget):
    model, samples = tiny(family).float(), samples_for(family)
    found = kprune(model, samples, parse_budget(budget))
    sites = find_sites(model)
    assert list(found.masks) == [site.name for site in sites]
    bound = parse_budget(budget)
    dense, left = (
        price_sites(find_sites(m), bound.kind, samples.mean_length).dense
        for m in (model, found.model)
    )
    cheapest = min(price_sites(sites, bound.kind, samples.mean_length).per_unit)
    assert bound.value * dense - cheapest < left <= bound.value * dense
    expected = compact(model, found.masks)
    tuning = tune(model, expected, samples, TUNERS["weights"])
    assert found.tuning == tuning
    assert same(found.model, expected)


def test_every_sublayer_is_decided_by_the_student_as_it_is_then(monkeypatch):
    model, samples = tiny("bert").float(), samples_for("bert")
    sites = find_sites(model)
    reference = Reference(model, samples)
    scored, steps, score, keep = [], [], reference.score, room.keep_best

    def spy_score(student, ahead):
        widths = {site.name: site.units for site in find_sites(student)}
        scored.append((widths, list(ahead)))
        return score(student, ahead)

    def spy_keep(worth, prices, decided, limit):
        found = keep(worth, prices, decided, limit)
        counts = [*decided, *(int(mask.sum()) for mask in found)]
        assert prices.of_counts(counts) <= limit
        assert len(worth) == sum(site.units for site in sites[len(decided) :])
        steps.append((list(decided), torch.from_numpy(found[0]).float()))
        return found

    monkeypatch.setattr(reference, "score", spy_score)
    monkeypatch.setattr(room, "keep_best", spy_keep)
    found = kprune(model, samples, HALF, reference=reference)
    counts = [int(found.masks[site.name].sum()) for site in sites]
    assert [decided for decided, _ in steps] == [counts[:i] for i in range(len(sites))]
    # Of every decision the first sublayer's part was carried out.
    for (_, mask), site in zip(steps, sites, strict=True):
        assert torch.equal(mask, found.masks[site.name])
    untouched = next(i for i, site in enumerate(sites) if counts[i] < site.units) + 1
    assert len(scored) == len(sites) - untouched
    for start, (widths, ahead) in enumerate(scored, untouched):
        assert ahead == sites[start:]
        expected = [*counts[:start], *(site.units for site in ahead)]
        assert [widths.get(site.name, 0) for site in sites] == expected


def test_worth_is_knowledge_per_price_and_heads_weigh_more(monkeypatch):
    model, samples = tiny("bert").float(), samples_for("bert")
    reference = Reference(model, samples)
    units = sum(site.units for site in find_sites(model))
    reference.scores = Scores(torch.arange(units) * 1.0, torch.arange(units) * 10.0)
    seen = []
    keep = room.keep_best
    monkeypatch.setattr(room, "keep_best", lambda *args: (seen.append(args[0]), keep(*args))[1])
    kprune(model, samples, HALF, reference=reference, lam=0.5, mu=3.0, seq_len=8)
    prices = price_sites(find_sites(model), "macs", 8)
    expected = torch.cat(
        [
            torch.full((site.units,), (3.0 if site.kind == "attention" else 1.0) / price)
            for site, price in zip(prices.sites, prices.per_unit, strict=True)
        ]
    )
    assert torch.allclose(
        torch.from_numpy(seen[0]).float(), expected * torch.arange(units) * (1 + 0.5 * 10)
    )


def test_constants_can_be_varied():
    model, samples = tiny("bert").float(), samples_for("bert")
    many, few = (kprune(model, samples, HALF, mu=mu) for mu in (1e6, 1e-6))
    assert heads(many, model) > heads(few, model)
    by_representation, by_both = (kprune(model, samples, HALF, lam=lam) for lam in (1e9, 0.0))
    assert any(
        not torch.equal(by_representation.masks[name], mask) for name, mask in by_both.masks.items()
    )


def test_budgets_that_nothing_fits_into_are_refused_before_any_pass(monkeypatch):
    monkeypatch.setattr(room, "Reference", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(BudgetError, match="smallest"):
        kprune(tiny("bert").float(), samples_for("bert"), parse_budget("macs=0.001"))


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "llama", "vit"])
def test_in_half_precision_and_where_a_model_was_pruned_before(family):
    model, samples = tiny(family).float(), samples_for(family)
    masks = random_masks(find_sites(model))
    masks[find_sites(model)[3].name][:] = 0
    once = compact(model, masks)
    found = kprune(once, samples, HALF, dtype=torch.bfloat16)
    prices = [
        price_sites(find_sites(m), "macs", samples.mean_length).dense for m in (once, found.model)
    ]
    assert 0 < prices[1] <= 0.5 * prices[0]
    assert all(entry.failure is None for entry in found.tuning)
    assert all(torch.isfinite(p).all() for p in found.model.parameters())


def test_modes_carry_over_to_sublayers_that_lost_everything():
    model, samples = tiny("bert").float().train(), samples_for("bert")
    found = kprune(model, samples, parse_budget(0.1))
    assert len(find_sites(found.model)) < len(find_sites(model))
    assert all(module.training for module in found.model.modules())
    assert all(module.training for module in model.modules())


def test_through_the_pipeline(tmp_path):
    model = tiny("bert").float()
    samples = text_samples("classification", 16)
    result = prune(model, samples, 0.4, method="kprune", eval_data=samples, latency=False)
    report = result.report
    assert (report.method, report.tune, report.warnings) == ("kprune", "weights", [])
    assert report.macs.kept <= 0.4
    assert report.tuning
    assert all(report.timing_s[stage] > 0 for stage in ("calibrate", "search", "tune"))
    for kind, name in (("attention", "heads"), ("ffn", "filters")):
        kept = [int(result.masks[s.name].sum()) for s in find_sites(model) if s.kind == kind]
        assert report.units[name] == kept
    result.save_pretrained(tmp_path / "out")
    loaded = fastprune.load_pretrained(tmp_path / "out")
    assert fastprune.evaluate(loaded, samples, progress=False) == report.score.pruned
    assert same(loaded, result.model)


@pytest.mark.parametrize(
    "options",
    [
        {"tune": "scale"},
        {"tune": "none"},
        {"stages": 2},
        {"teacher": "staged"},
        {"targets": "labels"},
        {"align": 8},
        {"uniform": True},
        {"preset": "kwon2022"},
    ],
    ids=str,
)
def test_choices_it_cannot_honour_are_one_clear_line(options):
    (name,) = options
    samples = text_samples("classification")
    with pytest.raises(FastpruneError, match=name) as raised:
        prune(tiny("bert").float(), samples, method="kprune", latency=False, **options)
    assert "\n" not in str(raised.value)


def test_statistics_are_refused():
    model, samples = tiny("bert").float(), text_samples("classification")
    statistics = fastprune.collect_statistics(model, samples)
    with pytest.raises(FastpruneError, match="leave statistics out"):
        prune(model, samples, method="kprune", statistics=statistics, latency=False)


def test_stages_within_stages_count_once(monkeypatch):
    clock = iter([0.0, 1.0, 3.0, 4.0, 5.0, 10.0, 10.0, 11.0])
    monkeypatch.setattr("fastprune.report.time.perf_counter", lambda: next(clock))
    watch = Stopwatch()
    with watch.stage("tune"):  # from 0 to 10
        with watch.stage("search"):  # from 1 to 3
            pass
        with watch.stage("search"):  # from 4 to 5
            pass
    with watch.stage("load"):
        pass
    assert (watch.seconds["tune"], watch.seconds["search"]) == (7.0, 3.0)
    assert watch.seconds["load"] == 1.0


def test_labels_play_no_part():
    model, samples = tiny("bert").float(), samples_for("bert")
    found, other = (kprune(model, s, HALF) for s in (samples, replace(samples, labels=None)))
    assert same(found.model, other.model)
