"""The setup script: which torch it picks, what it repairs, when it has nothing to do."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

TOOLS = Path(__file__).resolve().parent.parent / "tools"
sys.path.insert(0, str(TOOLS))

import bootstrap  # noqa: E402
import environment  # noqa: E402
import machine  # noqa: E402

CPU = {"torch": "2.13.0+cpu", "filelock": "3.20", "sympy": "1.14"}
CUDA = {"torch": "2.13.0", "nvidia-cublas": "13.1", "cuda-toolkit": "13.0", "triton": "3.7"}


def report(packages: dict[str, str]) -> dict[str, Any]:
    """A pip installation report, as far as the setup reads it."""
    entries = [{"metadata": {"name": n, "version": v}} for n, v in packages.items()]
    return {"version": "1", "install": entries}


class Pip:
    """Answers plans from a table: one for pip's own indexes, one for PyTorch's CPU index."""

    def __init__(self, own: dict[str, str] | None, cpu_index: dict[str, str] | None) -> None:
        self.own, self.cpu_index, self.asked = own, cpu_index, 0

    def plan(self, arguments: list[str]) -> dict[str, Any] | None:
        self.asked += 1
        packages = self.cpu_index if bootstrap.TORCH_CPU_INDEX in arguments else self.own
        return None if packages is None else report(packages)


def test_a_gpu_gets_the_default_torch_unasked() -> None:
    pip = Pip(CUDA, CPU)
    assert bootstrap.choose_torch(True, pip.plan) == [bootstrap.TORCH]
    assert pip.asked == 0


def test_without_a_gpu_a_cpu_build_on_pips_own_index_is_taken() -> None:
    assert bootstrap.choose_torch(False, Pip(CPU, None).plan) == [bootstrap.TORCH]


@pytest.mark.parametrize("own", [CUDA, None, {"torch": "2.13.0", "NVIDIA-nccl-cu13": "2.29"}])
def test_without_a_gpu_cuda_packages_are_never_taken(own: dict[str, str] | None) -> None:
    chosen = bootstrap.choose_torch(False, Pip(own, CPU).plan)
    assert chosen == [bootstrap.TORCH, "--index-url", bootstrap.TORCH_CPU_INDEX]


@pytest.mark.parametrize("cpu_index", [CUDA, None])
def test_no_cpu_build_anywhere_is_an_error_with_a_cure(cpu_index: dict[str, str] | None) -> None:
    with pytest.raises(machine.SetupError, match=r"no CPU build of torch.*by hand"):
        bootstrap.choose_torch(False, Pip(CUDA, cpu_index).plan)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2.13.0+cpu", (2, 13)), ("2.9.1", (2, 9)), ("3.12", (3, 12)), ("nightly", ())],
)
def test_version_tuple(text: str, expected: tuple[int, ...]) -> None:
    assert machine.version_tuple(text) == expected


def test_an_old_python_is_refused() -> None:
    machine.check_python((3, 10, 0))
    with pytest.raises(machine.SetupError, match=r"3\.9\.18 is too old.*PYTHON="):
        machine.check_python((3, 9, 18))


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    with pytest.raises(machine.SetupError, match=r"no C\+\+ compiler found .*no-such-compiler"):
        machine.check_compiler()


def test_a_compiler_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(machine.SetupError, match=r"false cannot compile C\+\+20"):
        machine.check_compiler()


def executable(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("script", "expected"),
    [("echo 'GPU 0: NVIDIA H100'", True), ("echo 'No devices were found'; exit 6", False)],
)
def test_gpu_detection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, expected: bool
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not machine.has_gpu()
    executable(tmp_path, "nvidia-smi", script)
    assert machine.has_gpu() is expected


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("pyproject.toml", "setup.py", "CMakeLists.txt", "csrc/kernels/a.cu", "tools/b.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path


@pytest.mark.parametrize("name", ["setup.py", "csrc/kernels/a.cu", "csrc/new.h", "tools/b.py"])
def test_the_fingerprint_follows_every_input(project: Path, name: str) -> None:
    before = bootstrap.fingerprint(project)
    assert bootstrap.fingerprint(project) == before
    (project / name).write_text("changed")
    assert bootstrap.fingerprint(project) != before


def test_the_fingerprint_follows_names_and_settings(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = bootstrap.fingerprint(project)
    monkeypatch.setenv("FASTPRUNE_CUDA", "off")
    assert bootstrap.fingerprint(project) != before
    monkeypatch.delenv("FASTPRUNE_CUDA")
    (project / "csrc/kernels/a.cu").rename(project / "csrc/kernels/b.cu")
    assert bootstrap.fingerprint(project) != before


@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"fingerprint": "x"}', "torn {"])
def test_an_unreadable_stamp_counts_as_none(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "stamp").write_text(content)
    assert bootstrap.read_stamp(tmp_path / "stamp") == ("", set())


class Recorder(environment.Environment):
    """An environment that notes what would be installed."""

    installed: list[tuple[str, ...]]

    def works(self) -> bool:
        return True

    def ask(self, code: str) -> str | None:
        return "2.13.0" if "torch" in code else str(self.folder)

    def install(self, *arguments: str) -> None:
        self.installed.append(arguments)
        (self.bin / "fastprune").touch()


@pytest.fixture
def installed(project: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What each setup of ``project`` installs; clear it to look at the next one."""
    (project / ".venv" / "bin").mkdir(parents=True)
    record: list[tuple[str, ...]] = []
    monkeypatch.setattr(Recorder, "installed", record, raising=False)
    monkeypatch.setattr(bootstrap, "Environment", Recorder)
    monkeypatch.setattr(bootstrap, "check_machine", lambda: None)
    monkeypatch.setattr(bootstrap, "has_gpu", lambda: False)
    return record


def test_setup_installs_once(project: Path, installed: list[tuple[str, ...]]) -> None:
    bootstrap.setup(project, {"dev"})
    assert installed == [
        tuple(bootstrap.BUILD_TOOLS),
        ("--no-build-isolation", "-e", ".[dev]"),
    ]
    installed.clear()
    bootstrap.setup(project, {"dev"})
    bootstrap.setup(project, set())
    assert installed == []


def test_setup_keeps_earlier_extras(project: Path, installed: list[tuple[str, ...]]) -> None:
    bootstrap.setup(project, {"demo"})
    assert ("--no-deps", bootstrap.DEMO_MODEL) in installed
    installed.clear()
    bootstrap.setup(project, {"dev"})
    assert ("--no-build-isolation", "-e", ".[dev]") in installed
    assert json.loads((project / ".venv" / bootstrap.STAMP).read_text())["extras"] == [
        "demo",
        "dev",
    ]


def test_setup_runs_again_after_a_change_or_a_failure(
    project: Path, installed: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    bootstrap.setup(project, set())
    (project / "csrc/kernels/a.cu").write_text("changed")
    with monkeypatch.context() as patch:

        def fail(self: Recorder, *arguments: str) -> None:
            raise machine.SetupError("network")

        patch.setattr(Recorder, "install", fail)
        with pytest.raises(machine.SetupError):
            bootstrap.setup(project, set())
    assert not (project / ".venv" / bootstrap.STAMP).exists()
    installed.clear()
    bootstrap.setup(project, set())
    assert installed


def test_installs_that_were_cut_short_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("whole", "whole-1.0.dist-info", "torn", "torn-1.0.dist-info", "~orch"):
        (tmp_path / name).mkdir()
    (tmp_path / "whole-1.0.dist-info" / "INSTALLER").touch()
    venv = environment.Environment(tmp_path)
    monkeypatch.setattr(venv, "ask", lambda code: str(tmp_path))
    assert venv.forget_unfinished() == ["torn-1.0.dist-info", "~orch"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "torn",
        "whole",
        "whole-1.0.dist-info",
    ]


def test_a_half_made_environment_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / ".venv"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to("/no/such/python")
    venv = environment.Environment(folder)
    assert not venv.works()
    venv.create()
    assert venv.works()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("WARNING: Retrying ... NewConnectionError(...)\nERROR: none", "cannot be reached"),
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("noise\n  kernel.cu(3): error: expected ';'\nERROR: Failed", r"kernel\.cu\(3\)"),
        (
            "CMake Error at x:84 (add):\n\n  Cannot find a.cu\nERROR: Failed",
            r"\(add\): Cannot find a",
        ),
        ("Building: finished with status 'error'\nERROR: no such thing", "^ERROR: no such thing"),
        ("", "pip failed"),
    ],
)
def test_a_failure_is_explained_in_one_line(output: str, message: str) -> None:
    explained = environment.explain(output)
    assert re.search(message, explained)
    assert "\n" not in explained


def test_pip_failures_name_the_cause_and_the_log(tmp_path: Path) -> None:
    venv = environment.Environment(tmp_path)
    venv.bin.mkdir()
    executable(venv.bin, "python", "echo 'ERROR: no such thing'; exit 1")
    with pytest.raises(machine.SetupError, match=r"ERROR: no such thing.*fastprune-setup\.log"):
        venv.install("thing")
    assert venv.plan(["thing"]) is None
