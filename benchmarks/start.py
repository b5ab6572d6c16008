"""What an import costs, in interpreters that were just started, and what it brings along."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec

from benchmarks.measure import LeftOut, Line, Sample, Subjects, at_most
from benchmarks.run import Run

TITLE = "Import"
UNWANTED = {"asyncio", "sqlite3", "psycopg", "psycopg_pool", "asyncpg", "aiosqlite", "sqlalchemy"}
TO_DECIDE = "from freetier import FreeTierPolicy, Request, Snapshot"
PEERS = {"limits": "limits", "pyrate_limiter": "pyrate-limiter", "throttled": "throttled-py"}

# The import alone is timed, in a bare interpreter: its start is nobody's.
CHILD = """
import sys, time
before = set(sys.modules)
started = time.perf_counter()
{statement}
print(time.perf_counter() - started)
print(*(set(sys.modules) - before))
"""


def lines(run: Run) -> Iterator[Line]:
    """Each import in a process of its own, in turn."""
    subjects = Subjects()
    subjects.add("freetier", lambda: _import("freetier")[0])
    subjects.add("to decide", lambda: _run(TO_DECIDE)[0])
    subjects.add("attrs", lambda: _import("attrs")[0])
    for module, name in PEERS.items():
        subjects.add_if_there(name, partial(_sample, module))
    rounds = subjects.measured(run.rounds)
    yield rounds.compared("import freetier / import attrs", "freetier", "attrs", at_most(1.3))
    yield rounds.compared("what it takes to decide / import attrs", "to decide", "attrs")
    for name in PEERS.values():
        yield rounds.compared(f"import of {name} / what it takes to decide", name, "to decide")
    brought = sorted(UNWANTED & _run(TO_DECIDE)[1])
    yield Line(
        "asyncio, sqlite3 and drivers that this brings in",
        (len(brought),),
        at_most(0),
        "modules",
        note=", ".join(brought) or "none",
    )


def _sample(module: str) -> Sample:
    if find_spec(module) is None:
        raise LeftOut(f"{module} is not installed: pip install 'freetier[bench]'")
    return lambda: _import(module)[0]


def _import(module: str) -> tuple[float, set[str]]:
    return _run(f"import {module}")


def _run(statement: str) -> tuple[float, set[str]]:
    """Seconds, and the names of the modules that came in."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD.format(statement=statement)],
        check=True,
        capture_output=True,
        text=True,
    )
    took, _, names = done.stdout.partition("\n")
    return float(took), set(names.split())
