"""What the figures were measured on and with."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "freetier", "attrs", "psycopg", "psycopg-pool", "asyncpg", "aiosqlite",
    "limits", "pyrate-limiter", "throttled-py", "snipz",
)  # fmt: skip
FLUSHES = 51
PAGE = b"x" * 4096


def facts(folder: Path) -> dict[str, object]:
    """Versions, processors, and how long the disk under `folder` takes to keep a page."""
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "sqlite": sqlite3.sqlite_version,
        "system": platform.platform(),
        "processor": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "fdatasync_us": round(fdatasync_us(folder)),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def fdatasync_us(folder: Path) -> float:
    """The median of a page written behind the last, each followed by its flush, in µs."""
    took = []
    path = folder / "flushed"
    file = os.open(path, os.O_CREAT | os.O_WRONLY)
    try:
        for _ in range(FLUSHES):
            os.write(file, PAGE)
            started = time.perf_counter()
            os.fdatasync(file)
            took.append(time.perf_counter() - started)
    finally:
        os.close(file)
        path.unlink()
    return statistics.median(took) * 1e6


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
