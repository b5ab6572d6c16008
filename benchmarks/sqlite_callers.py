"""1 to 64 callers in one process on one SQLite file, durable: how many times one caller's rate."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.bursts import ONE, everyone, names
from benchmarks.measure import Line, at_least
from benchmarks.run import Run

TITLE = "SQLite, durable, callers in one process, against one caller"
TO_REACH = {"64 tasks": at_least(6)}


def lines(run: Run) -> Iterator[Line]:
    """A ratio of rates: one caller's time a reserve over that of all of them together."""
    with everyone(str(run.folder / "callers.db")) as subjects:
        rounds = subjects.measured(run.few)
    for name in names():
        yield rounds.compared(f"the rate of {name} / one caller's", ONE, name, TO_REACH.get(name))
