"""What a reserve costs as the journal grows: durable, a short and a long journal side by side.

1,000 entries against 100,000; with `--full`, against 5,000,000, which takes long to fill.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

from benchmarks.ledgers import (
    POLICY,
    Key,
    fill_sqlite,
    ordered_keys,
    postgres_ledger,
    random_keys,
    requests,
    sqlite_ledger,
)
from benchmarks.measure import LeftOut, Line, Sample, Subjects, at_most, left_out, timed
from benchmarks.run import Run
from freetier import FreeTier

TITLE = "A reserve as the journal grows"
SHORT, LONG, LONGEST = 1_000, 100_000, 5_000_000
CALLS = 100
MOST = at_most(1.25)
WARM = 3

Make = Callable[[Run, ExitStack, int], Sample]


def lines(run: Run) -> Iterator[Line]:
    """On each store; on SQLite with ids that grow, and with random ones, the worst case."""
    long = LONGEST if run.full else LONG
    for store, make in (
        ("SQLite, ids that grow", _sqlite("ordered", ordered_keys)),
        ("SQLite, random ids", _sqlite("random", random_keys)),
        ("Postgres, random ids", _postgres),
    ):
        name = f"{store}: at {long:,} entries / at {SHORT:,}"
        try:
            with ExitStack() as stack:
                subjects = Subjects()
                for length in (SHORT, long):
                    subjects.add(str(length), make(run, stack, length))
                rounds = subjects.measured(run.rounds, warm=WARM)
            yield rounds.compared(name, str(long), str(SHORT), MOST)
        except LeftOut as why:
            yield left_out(name, str(why), MOST)


def _sqlite(name: str, keys: Callable[[], Key]) -> Make:
    def make(run: Run, stack: ExitStack, entries: int) -> Sample:
        path, key = run.folder / f"{name}-{entries}.db", keys()
        stack.callback(path.unlink)  # the next one may need the room
        fill_sqlite(path, entries, key)
        return _reserving(stack.enter_context(sqlite_ledger(path)), key)

    return make


def _postgres(run: Run, stack: ExitStack, entries: int) -> Sample:
    opened = postgres_ledger(run.postgres(), f"entries_{entries}", entries)
    return _reserving(FreeTier(POLICY, stack.enter_context(opened)), random_keys())


def _reserving(ledger: FreeTier, key: Key) -> Sample:
    request = requests(key)
    return timed(lambda: ledger.reserve(request()), CALLS)
