"""Against pyrate-limiter and snipz on the same stores, behind 20,000 entries of the same day."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import LiteralString

from benchmarks import peers
from benchmarks.ledgers import (
    POLICY,
    fill_sqlite,
    ordered_keys,
    postgres_ledger,
    requests,
    sqlite_connection,
)
from benchmarks.measure import LeftOut, Line, Sample, Subjects, at_least, left_out, timed
from benchmarks.run import Run
from freetier import FreeTier
from freetier.sqlite import SQLiteRepository

TITLE = "Against peers on the same store, 20,000 entries of history"
ENTRIES = 20_000
SNIPZ_ENTRIES = 2_000
"""Each takes longer than the one before, so that 20,000 take minutes: those with `--full`."""
CALLS = 20
FASTER = at_least(8)
THAN_SNIPZ_ON_SQLITE = at_least(100)
THAN_SNIPZ_ON_POSTGRES = at_least(15)
PYRATE = "a try_acquire of pyrate-limiter / reserve"


def lines(run: Run) -> Iterator[Line]:
    """On SQLite each peer is compared at its own durability: we wait for the disk as it does."""
    yield from _on_sqlite(run)
    try:
        url = run.postgres()
    except LeftOut as why:
        yield left_out(f"Postgres: {PYRATE}", str(why), FASTER)
        yield left_out(f"Postgres: {_snipz(run)}", str(why), THAN_SNIPZ_ON_POSTGRES)
    else:
        yield from _on_postgres(run, url)


def _on_sqlite(run: Run) -> Iterator[Line]:
    with ExitStack() as stack:
        subjects = Subjects()
        subjects.add("full", _ours_on_sqlite(run, stack, "FULL"))
        subjects.add("normal", _ours_on_sqlite(run, stack, "NORMAL"))
        for name, file_lock in (("pyrate full", False), ("pyrate normal", True)):
            path = run.folder / f"{name}.db"
            peer = peers.pyrate_on_sqlite(path, ENTRIES, file_lock=file_lock)
            subjects.add_if_there(name, peers.opened(stack, peer, CALLS))
        snipz = peers.snipz(run.folder / "snipz.db", _snipz_entries(run))
        subjects.add_if_there("snipz", peers.opened(stack, snipz, CALLS))
        rounds = subjects.measured(run.rounds)
    yield rounds.compared(f"SQLite, each on the disk: {PYRATE}", "pyrate full", "full", FASTER)
    yield rounds.compared(f"SQLite, NORMAL: {PYRATE}", "pyrate normal", "normal", FASTER)
    bound = THAN_SNIPZ_ON_SQLITE if run.full else None
    yield rounds.compared(f"SQLite, NORMAL: {_snipz(run)}", "snipz", "normal", bound)


def _ours_on_sqlite(run: Run, stack: ExitStack, synchronous: LiteralString) -> Sample:
    path, key = run.folder / f"history-{synchronous}.db", ordered_keys()
    fill_sqlite(path, ENTRIES, key)
    connection = stack.enter_context(closing(sqlite_connection(path, synchronous)))
    ledger, request = FreeTier(POLICY, SQLiteRepository(connection)), requests(key)
    return timed(lambda: ledger.reserve(request()), CALLS)


def _on_postgres(run: Run, url: str) -> Iterator[Line]:
    with ExitStack() as stack:
        repository = stack.enter_context(postgres_ledger(url, "history", ENTRIES))
        ledger, request = FreeTier(POLICY, repository), requests(ordered_keys())
        subjects = Subjects()
        subjects.add("reserve", timed(lambda: ledger.reserve(request()), CALLS))
        pyrate = peers.pyrate_on_postgres(url, ENTRIES)
        subjects.add_if_there("pyrate", peers.opened(stack, pyrate, CALLS))
        snipz = peers.snipz(url, _snipz_entries(run))
        subjects.add_if_there("snipz", peers.opened(stack, snipz, CALLS))
        rounds = subjects.measured(run.rounds)
    yield rounds.compared(f"Postgres: {PYRATE}", "pyrate", "reserve", FASTER)
    bound = THAN_SNIPZ_ON_POSTGRES if run.full else None
    yield rounds.compared(f"Postgres: {_snipz(run)}", "snipz", "reserve", bound)


def _snipz(run: Run) -> str:
    return f"a reserve of snipz over two scopes ({_snipz_entries(run):,} entries) / reserve"


def _snipz_entries(run: Run) -> int:
    return ENTRIES if run.full else SNIPZ_ENTRIES
