"""Real processes that start at the same moment, for races that threads would not show."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PREAMBLE = """
import sys
from datetime import UTC, datetime, timedelta
import freetier
from freetier import *
path, me = sys.argv[1], int(sys.argv[2])
noon = lambda: datetime(2026, 1, 5, 12, tzinfo=UTC)
print("ready", flush=True)
input()
"""
"""Before each script: what it may use. `me` is the process's number; `noon` is a clock."""


def race(script: str, path: Path, *, processes: int = 8) -> list[str]:
    """What each process printed; each that fails, or says anything on stderr, fails the test."""
    command = [sys.executable, "-W", "error", "-c", PREAMBLE + script, str(path)]
    runs = [
        subprocess.Popen(
            [*command, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(processes)
    ]
    try:
        for run in runs:
            assert run.stdout is not None
            assert run.stdout.readline() == "ready\n"
        for run in runs:
            assert run.stdin is not None
            run.stdin.write("go\n")
            run.stdin.flush()
        said = [run.communicate(timeout=120) for run in runs]
    finally:
        for run in runs:
            run.kill()
            run.communicate()
    assert [(run.returncode, errors) for run, (_, errors) in zip(runs, said, strict=True)] == [
        (0, "")
    ] * processes
    return [output for output, _ in said]
