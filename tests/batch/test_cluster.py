"""Ray: a real cluster of this machine where Ray is installed, and the ways it can be missing."""

from __future__ import annotations

import builtins
import json
import socket
import sys
import time

import pytest
from click.testing import CliRunner

from fastprune.batch.cluster import RayExecutor
from fastprune.batch.job import Job, Resources
from fastprune.batch.store import Store
from fastprune.budget import Budget
from fastprune.cli import main
from fastprune.errors import BatchError


@pytest.fixture
def job_file(zoo, tmp_path):
    for name in ("models", "train.tsv", "eval.tsv"):
        (tmp_path / name).symlink_to(zoo / name)
    path = tmp_path / "jobs.yaml"
    path.write_text(
        "out: out\n"
        "defaults: {train: train.tsv, samples: 16, latency: false, cache: cache}\n"
        "jobs: [{model: models/first, budgets: [0.7, 0.5]}]\n"
    )
    return path


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def one_line(result) -> str:
    assert result.exit_code == 1, result.output
    (line,) = result.output.strip().splitlines()
    assert line.startswith("fastprune: error: ")
    return line


def test_without_ray_the_command_to_install_it_is_named(job_file, monkeypatch):
    real = builtins.__import__

    def no_ray(name, *rest, **more):
        if name == "ray":
            raise ImportError("No module named 'ray'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", no_ray)
    line = one_line(CliRunner().invoke(main, ["batch", str(job_file), "--ray"]))
    assert "pip install ray" in line


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "ray://127.0.0.1:{port}"])
def test_a_cluster_that_does_not_answer_is_named_at_once(job_file, address):
    pytest.importorskip("ray")
    address = address.format(port=free_port())
    start = time.monotonic()
    line = one_line(CliRunner().invoke(main, ["batch", str(job_file), "--ray", address]))
    assert f"no Ray cluster answers at {address}" in line
    assert time.monotonic() - start < 20


def test_what_is_no_address(job_file):
    pytest.importorskip("ray")
    line = one_line(CliRunner().invoke(main, ["batch", str(job_file), "--ray", "head"]))
    assert "host:port" in line


def test_workers_are_for_this_machine(job_file):
    arguments = ["batch", str(job_file), "--ray", "--workers", "2"]
    assert "resources:" in one_line(CliRunner().invoke(main, arguments))


def endings(executor: RayExecutor, count: int) -> dict[str, object]:
    found: dict[str, object] = {}
    deadline = time.monotonic() + 60
    while len(found) < count:
        assert time.monotonic() < deadline
        found |= dict(executor.ended())
        time.sleep(0.05)
    return found


@pytest.mark.slow
def test_a_cluster_of_this_machine(job_file, tmp_path):
    """Jobs are done there; one with no room is refused; whoever is killed is reported."""
    ray = pytest.importorskip("ray")
    store = Store(tmp_path / "other")
    store.prepare()
    # A worker that ends as its job is called: by a signal, or with a status.
    program = "import os, sys; n = sys.argv[2]; os.kill(os.getpid(), 9) if n == 'killed' else None"
    executor = RayExecutor(store, worker=(sys.executable, "-c", program + "; sys.exit(3)"))
    try:
        jobs = [
            Job(n, "model", "sst2", None, (Budget("macs", 0.5),)) for n in ("killed", "crashed")
        ]
        assert all(executor.start(job, 1) for job in jobs)
        found = endings(executor, 2)
        assert {name: ending.kind for name, ending in found.items()} == {
            "killed": "killed",
            "crashed": "crashed",
        }
        with pytest.raises(BatchError, match=r"line 7: .*no node"):
            executor.check(
                Job(
                    "a",
                    "model",
                    "sst2",
                    None,
                    (Budget("macs", 0.5),),
                    {},
                    Resources(4096),
                    place="line 7",
                )
            )
    finally:
        executor.stop()
    assert not ray.is_initialized()

    result = CliRunner().invoke(main, ["batch", str(job_file), "--json", "--ray"])
    assert result.exit_code == 0, result.output
    assert [row["state"] for row in json.loads(result.stdout)] == ["done", "done"]
    assert (job_file.parent / "out" / "first" / "macs-0.5" / "config.json").is_file()
