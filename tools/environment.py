"""A virtual environment and the pip inside it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from machine import MINIMUM_PYTHON, SetupError, version_tuple

NETWORK_SIGNS = (
    "NewConnectionError",
    "Name or service not known",
    "Temporary failure in name resolution",
    "Connection refused",
    "Network is unreachable",
    "ReadTimeoutError",
    "ConnectTimeoutError",
    "ProxyError",
    "SSLError",
)
# The most telling first: a compiler's, CMake's, the build's own, pip's.
BUILD_ERRORS = (r": (fatal )?error: ", r"^CMake Error", r"^fastprune: ", r"^ERROR: ")


class Environment:
    """The virtual environment at ``folder``; pip's output goes to a log inside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.python = self.bin / "python"
        self.log = folder / "fastprune-setup.log"

    def ask(self, code: str) -> str | None:
        """What ``code`` prints in this environment, or None when it fails."""
        command = [str(self.python), "-c", code]
        try:
            run = subprocess.run(command, capture_output=True, text=True, env=self.variables())
        except OSError:
            return None
        return run.stdout.strip() if run.returncode == 0 else None

    def variables(self) -> dict[str, str]:
        """Our environment variables, with this environment's programs first and no detours."""
        variables = {**os.environ, "PATH": f"{self.bin}{os.pathsep}{os.environ.get('PATH', '')}"}
        for detour in ("PYTHONHOME", "PYTHONPATH", "PIP_USER", "PIP_TARGET", "PIP_PREFIX"):
            variables.pop(detour, None)
        return {**variables, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}

    def works(self) -> bool:
        """Whether Python and pip in here run, and Python is new enough."""
        answer = self.ask("import pip, sys; print('%d.%d' % sys.version_info[:2])")
        return answer is not None and version_tuple(answer) >= MINIMUM_PYTHON

    def create(self) -> None:
        """Make this environment, replacing whatever half-made one is there."""
        command = [sys.executable, "-m", "venv", "--clear", str(self.folder)]
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode or not self.works():
            detail = (made.stdout + made.stderr).strip().splitlines() or ["no message"]
            raise SetupError(f"cannot create {self.folder}: {detail[-1]}")

    def forget_unfinished(self) -> list[str]:
        """Remove the records of installs that were cut short, so that pip does them again.

        pip writes INSTALLER last, and renames what it replaces to ``~name`` until it is done.
        """
        packages = self.ask("import sysconfig; print(sysconfig.get_path('purelib'))")
        unfinished = [
            entry
            for entry in sorted(Path(packages or self.folder).iterdir())
            if entry.name.startswith("~")
            or (entry.suffix == ".dist-info" and not (entry / "INSTALLER").exists())
        ]
        for entry in unfinished:
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        return [entry.name for entry in unfinished]

    def install(self, *arguments: str) -> None:
        """``pip install`` in the folder that holds this environment; SetupError when it fails."""
        command = [str(self.python), "-m", "pip", "install", *arguments]
        with self.log.open("a+b") as log:
            log.write(f"\n$ pip install {' '.join(arguments)}\n".encode())
            log.flush()
            start = log.tell()
            done = subprocess.run(
                command,
                cwd=self.folder.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.variables(),
            )
            log.seek(start)
            output = log.read().decode(errors="replace")
        if done.returncode:
            raise SetupError(f"{explain(output)} (all that pip said: {self.log})")

    def plan(self, arguments: list[str]) -> dict[str, Any] | None:
        """pip's report on what installing ``arguments`` would bring, or None when it cannot."""
        report = self.folder / "fastprune-plan.json"
        try:
            self.install("--dry-run", "--report", str(report), *arguments)
            return json.loads(report.read_text())
        except SetupError:
            return None
        finally:
            report.unlink(missing_ok=True)


def explain(output: str) -> str:
    """Why pip failed, from what it printed: one line, with the cure where it is known."""
    if any(sign in output for sign in NETWORK_SIGNS):
        return (
            "the package index cannot be reached: check the network and pip's proxy and index "
            "settings, then run this again"
        )
    if "No space left on device" in output:
        return "the disk is full: free some space, then run this again"
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for pattern in BUILD_ERRORS:
        for line, following in zip(lines, [*lines[1:], ""], strict=False):
            if re.search(pattern, line):
                return f"{line} {following}" if line.endswith(":") else line
    return "pip failed"
