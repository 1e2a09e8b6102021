"""Pruning by several processes gives what one gives, to rounding, and the same in all of them."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import pytest
import torch
from ranks import run_ranks
from tiny_models import tiny
from tiny_samples import image_samples, text_samples

from fastprune import collect_statistics, data_parallel, prune, sweep
from fastprune.distributed import check_devices, share
from fastprune.errors import FastpruneError, NumericalError
from fastprune.tuning.system import LeastSquares

COUNT = 70  # three mini-batches of 32, the last one short; 35 and 35, or 24, 23 and 23 samples
TOKENS = 300
CASES = {
    "obs": ("bert", {}),
    "obs in two stages": ("bert", {"stages": 2, "budget": "macs=0.4"}),
    "obs, scales": ("bert", {"tune": "scale"}),
    "fisher": ("bert", {"method": "fisher"}),
    "fisher of mini-batches": ("bert", {"method": "fisher", "fisher": "batch", "batch_size": 7}),
    "fisher, means, stages": ("bert", {"method": "fisher", "tune": "bias", "stages": 2}),
    "spp": ("bert", {"method": "spp"}),
    "spp inside heads": ("bert", {"method": "spp", "granularity": "dimensions"}),
    "nothing from the data": ("bert", {"method": "magnitude", "tune": "none"}),
    "a staged teacher": ("bert", {"method": "magnitude", "teacher": "staged"}),
    "kwon2022": ("bert", {"preset": "kwon2022", "samples": COUNT}),
    "kprune": ("bert", {"method": "kprune"}),
    "sampled targets": ("roberta", {}),
    "transposed weights": ("gpt2", {}),
    "no biases": ("llama", {}),
    "images": ("vit", {}),
    "bfloat16 weights": ("bert", {}),
}
EXACT_BATCHES = ("fisher of mini-batches", "kwon2022")  # where batches are part of the method
FEW = ("obs", "fisher of mini-batches", "kprune", "transposed weights")
ASKED = [*((2, case) for case in CASES), *((3, case) for case in FEW)]
TASKS = {"roberta": "question-answering", "gpt2": "causal-lm", "llama": "causal-lm"}


_LENGTHS = text_samples("classification", COUNT).lengths
SECOND = sorted(range(COUNT), key=_LENGTHS.__getitem__, reverse=True)[1]
"""The second longest sample, which is the longest of the second process."""


def given(case):
    family, options = CASES[case]
    samples = (
        image_samples(COUNT)
        if family == "vit"
        else text_samples(TASKS.get(family, "classification"), COUNT)
    )
    model = tiny(family).float()
    return (model.bfloat16() if "bfloat16" in case else model), samples, options


def pruned(case, **more):
    model, samples, options = given(case)
    options = {"budget": "macs=0.5", **options, **more}
    if model.config.model_type in ("bert", "gpt2"):
        options["eval_data"] = samples
    result = prune(model, samples, latency=False, **options)
    return result.masks, result.model.state_dict(), result.report.to_dict()


def statistics(group=None):
    model, samples, _ = given("obs")
    if group is None:
        return collect_statistics(model, samples)
    return collect_statistics(model, share(samples, group), group=group)


def system(group=None):
    """A least-squares problem, of which each process sees every so many tokens."""
    generator = torch.Generator().manual_seed(0)
    x, error = (torch.randn(TOKENS, n, generator=generator) for n in (11, 7))
    rank, size = (0, 1) if group is None else (group.rank, group.size)
    found = LeastSquares(11, 7, x.device)
    found.add(x[rank::size], error[rank::size])
    if group is not None:
        found.sum_over(group)
    return found


def swept(folder):
    """Two sweeps into one directory, from statistics that the first process has kept."""
    model, samples, _ = given("obs")
    options = {"out": folder / "curve", "cache": folder / "cache", "latency": False}
    sweep(model, samples, ["macs=0.6"], **options)
    found = sweep(model, samples, ["macs=0.6", "macs=0.4"], resume=True, **options)
    return [(point.budget, point.directory, point.report["units"]) for point in found.points]


def everything(folder, cases):
    """All that is asked of one launch of some processes."""
    with data_parallel() as group:
        seen = {case: pruned(case) for case in cases}
        seen["system"] = system(group)
        seen["statistics"] = statistics(group)
        seen["with statistics"] = prune_with(seen["statistics"])
        seen["swept"] = swept(folder)
        seen["refused"] = refusals(group)
        result = prune(*given("obs")[:2], latency=False)
        result.save_pretrained(folder / "saved")
    return seen


def prune_with(statistics):
    model, samples, _ = given("obs")
    return prune(model, samples, statistics=statistics, latency=False).model.state_dict()


def refusals(group):
    """What is raised where one process alone is given something bad, or something else."""
    model, samples, _ = given("obs")
    last = group.rank == group.size - 1
    other = given("obs")[0]
    broken = given("obs")[0]
    rare = 4  # a word that no sample has, but soon one that the second process takes
    features = [dict(f) for f in samples.features]
    features[SECOND]["input_ids"] = [rare] * len(features[SECOND]["input_ids"])
    if last:
        other.classifier.weight.data += 1e-3
    with torch.no_grad():
        broken.bert.embeddings.word_embeddings.weight[rare] = 3e38
    found = {}
    for name, arguments in {
        "model": (other, samples, {}),
        "samples": (model, samples.select(range(1, COUNT)) if last else samples, {}),
        "settings": (model, samples, {"align": 1 + last}),
        "budget": (model, samples, {"budget": "macs=0.00001"}),
        "a file": (model, "missing.tsv" if last else samples, {}),
        "too few": (model, samples.select([0]), {}),
        "a bad row": (broken, replace(samples, features=features), {}),
    }.items():
        given_model, data, options = arguments
        try:
            prune(given_model, data, latency=False, **options)
        except FastpruneError as error:
            found[name] = error
    return found


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    """Starts so many processes, once: the folder they write to, and what each of them has seen."""

    @cache
    def started(size):
        folder = tmp_path_factory.mktemp("launched")
        cases = list(CASES) if size == 2 else FEW
        try:
            return folder, run_ranks(size, folder, everything, folder, cases)
        except AssertionError as error:
            return error  # told to every test, but not waited for again

    def launched(size):
        found = started(size)
        if isinstance(found, AssertionError):
            raise found
        return found

    return launched


@pytest.fixture(params=[2, 3], ids="{} processes".format)
def launched(request, launch):
    return launch(request.param)


@pytest.fixture(scope="module")
def alone():
    """Per case, the result of one process, and how far rounding moves its weights.

    They move with the batches, with the digits that are lost where errors are found by sums, and
    with each unit of rounding in what is summed.
    """
    generator = torch.Generator().manual_seed(0)
    add = LeastSquares.add

    def add_rounded(self, *values):
        noise = [torch.randn(v.shape, generator=generator) * 2**-23 for v in values]
        add(self, *(v * (1 + n) for v, n in zip(values, noise, strict=True)))

    found = {}
    for case in CASES:
        result, moved = pruned(case), []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fastprune.tuning.walk._digits_to_spare", lambda *_: False)
            patch.setattr(LeastSquares, "add", add_rounded)
            # LSMR in single precision stops an iteration earlier or later: one draw says little.
            for _ in range(5 if case == "kwon2022" else 1):
                other = pruned(case, **({} if case in EXACT_BATCHES else {"batch_size": 3}))
                moved.append(distance(result[1], other[1]))
        found[case] = *result, max(moved)
    return found


def distance(weights, expected):
    """The largest difference of any weight, relative to the largest of its tensor."""
    return max(
        float((weights[name] - w).abs().max() / w.abs().max())
        for name, w in expected.items()
        if w.numel()
    )


@pytest.mark.parametrize(("size", "case"), ASKED)
def test_all_processes_get_the_same_result(launch, size, case):
    _, (first, *others) = launch(size)
    masks, weights, report = first[case]
    assert report["processes"] == 1 + len(others)
    for other in others:
        assert other[case][2] == report
        for name, mask in other[case][0].items():
            assert torch.equal(mask, masks[name])
        for name, weight in other[case][1].items():
            assert torch.equal(weight, weights[name]), name


@pytest.mark.parametrize(("size", "case"), ASKED)
def test_it_is_the_result_of_one_process(launch, alone, size, case):
    masks, weights, report = launch(size)[1][0][case]
    expected_masks, expected_weights, expected, spread = alone[case]
    for name, mask in expected_masks.items():
        assert torch.equal(mask, masks[name]), name
    # The same products in other batches, summed in another order: rounding, amplified by the
    # solves as in tests/tuning/test_walk.py, or as much as in one process.
    assert distance(weights, expected_weights) <= max(1e-3, 4 * spread)
    for name in ("dense", "pruned"):
        score = expected[name]["score"]
        assert report[name]["score"] == (score and pytest.approx(score, rel=1e-3))
    timed = ("processes", "timing_s", "processor_s", "tuning", "dense", "pruned")
    assert {k: v for k, v in report.items() if k not in timed} == {
        k: v for k, v in expected.items() if k not in timed
    }
    assert report["tuning"].keys() == expected["tuning"].keys()
    for site, error in expected["tuning"].items():
        assert report["tuning"][site] == pytest.approx(error, rel=1e-2, abs=1e-6), site


def test_sums_are_those_of_one_process(launched):
    ours, theirs = launched[1][0]["statistics"], statistics()
    assert (ours.rows, ours.samples, ours.tokens) == (theirs.rows, theirs.samples, theirs.tokens)
    assert ours.samples == COUNT
    assert torch.equal(ours.input_moments.tokens, theirs.input_moments.tokens)
    for name in ("blocks", "output_fisher", "grams", "sums", "weights"):
        a, b = (getattr(s, name, getattr(s.input_moments, name, None)) for s in (ours, theirs))
        # float32 sums of `tokens` products, of activations and gradients that other batch shapes
        # round otherwise: c * tokens * eps of the largest, c = 8 for a model of three layers.
        assert (a - b).abs().max() <= 8 * theirs.tokens * 2**-23 * b.abs().max(), name
    for statistic in (ours, theirs):
        rows = statistic.gradient_rows()
        assert len(rows) == COUNT
        products = rows.double().T @ rows.double()
        units = statistic.sizes[0]
        error = products[:units, :units] - statistic.block(0)
        # The block sums the same rows, as float32 products.
        assert error.abs().max() <= 2 * (COUNT + 2) * 2**-23 * products.diagonal().max()


def test_least_squares_problems_add_up(launched):
    theirs = system()
    for seen in launched[1]:
        ours = seen["system"]
        assert ours.rows == theirs.rows == TOKENS
        for name in ("gram", "cross", "x_sum", "error_sum", "error"):
            a, b = getattr(ours, name), getattr(theirs, name)
            # Sums of products of standard normal numbers in float32.
            assert (a - b).abs().max() <= TOKENS * 2**-23 * b.abs().max(), name


def test_statistics_that_are_given_are_used_as_they_are(launched, alone):
    first, *others = (seen["with statistics"] for seen in launched[1])
    assert distance(first, prune_with(statistics())) <= max(1e-3, 4 * alone["obs"][-1])
    for other in others:
        assert all(torch.equal(weight, first[name]) for name, weight in other.items())


def test_the_first_process_saves(launched):
    folder, _ = launched
    assert (folder / "saved" / "fastprune_report.json").is_file()
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_sweeps_are_resumed_and_statistics_kept(launched):
    folder, (first, *others) = launched
    assert [budget for budget, *_ in first["swept"]] == ["macs=0.6", "macs=0.4"]
    assert all(seen["swept"] == first["swept"] for seen in others)
    found = sorted(path.name for path in (folder / "curve").iterdir())
    assert found == ["curve.csv", "curve.json", "macs-0.4", "macs-0.6"]
    assert len(list((folder / "cache" / "statistics").iterdir())) == 1
    model, samples, _ = given("obs")
    for budget, directory, units in first["swept"]:
        assert json.loads((directory / "fastprune_report.json").read_text())["units"] == units
        assert units == prune(model, samples, budget, latency=False).report.units


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("model", "process {last} was not given the same model as process 0"),
        ("samples", "process {last} was not given the same calibration samples"),
        ("settings", "process {last} was not given the same settings"),
        ("budget", "smallest"),
        ("a file", "missing.tsv"),
        ("too few", "1 calibration samples are too few for {size} processes"),
        ("a bad row", f", {100 + SECOND}, "),
    ],
)
def test_what_one_process_refuses_all_refuse_in_one_line(launched, what, reason):
    found = [seen["refused"].get(what) for seen in launched[1]]
    assert len({(type(error), str(error)) for error in found}) == 1
    message = str(found[0])
    assert reason.format(last=len(found) - 1, size=len(found)) in message
    assert "\n" not in message
    if what == "a bad row":
        assert isinstance(found[0], NumericalError)


class _Told:
    """A group whose other processes have these GPUs."""

    def __init__(self, rank, gpus):
        self.rank, self.gpus = rank, gpus

    def gather(self, value):
        return self.gpus


def test_a_gpu_belongs_to_one_process(monkeypatch):
    class Properties:
        uuid = "a"

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    gpu, cpu = torch.device("cuda:0"), torch.device("cpu")
    check_devices(_Told(0, ["a", "b"]), gpu)
    check_devices(_Told(0, [None, None]), cpu)
    with pytest.raises(FastpruneError, match="processes 0 and 1 work on the same GPU"):
        check_devices(_Told(1, ["a", "a"]), gpu)
    with pytest.raises(FastpruneError, match="process 1 works on a CPU and others on GPUs"):
        check_devices(_Told(0, ["a", None]), gpu)
