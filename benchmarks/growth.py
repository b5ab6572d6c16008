"""What a reserve costs as the journal grows: SQLite, durable, two ledgers side by side in one run.

    python benchmarks/growth.py                      1,000 entries against 1,000,000
    python benchmarks/growth.py --entries 1000 50000 --keys ordered

Both ledgers lie in one folder and are measured in turn, round by round, so that a machine that
slows down slows both. The figure to read is the ratio. `--keys random` (the default) is the worst
case: request ids like uuid4, which land anywhere in the index; `ordered` are ids that grow.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from uuid import UUID, uuid4

import freetier
from freetier import FreeTier, FreeTierPolicy, Request
from freetier.sqlite import SQLiteRepository, migrate

POLICY = FreeTierPolicy(seed_sats=10**12, budgets={"elite": 10**9})
IDENTITIES = 10_000


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What a reserve costs as the journal grows.")
    parser.add_argument("--entries", type=int, nargs=2, default=[1_000, 1_000_000])
    parser.add_argument("--keys", choices=["random", "ordered"], default="random")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--reserves", type=int, default=100, help="reserves a round")
    parser.add_argument("--most", type=float, default=1.5, help="exit 1 above this ratio")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="freetier-growth-") as folder, ExitStack() as stack:
        ledgers = []
        for entries in args.entries:
            path = Path(folder) / f"{entries}.db"
            keys = _keys(args.keys)
            started = time.perf_counter()
            _fill(path, entries, keys)
            print(f"{entries:,} entries in {time.perf_counter() - started:.0f} s", file=sys.stderr)
            ledgers.append((stack.enter_context(freetier.open(path, POLICY)), keys))
        rounds = [
            [_seconds(ledger, keys, args.reserves) for ledger, keys in ledgers]
            for _ in range(args.rounds)
        ][1:]  # the first warms the caches of both
    small, large = (statistics.median(times) for times in zip(*rounds, strict=True))
    ratio = statistics.median(b / a for a, b in rounds)
    result = {
        "keys": args.keys,
        "entries": args.entries,
        "us_a_reserve": [round(small * 1e6), round(large * 1e6)],
        "ratio": round(ratio, 2),
    }
    if args.json:
        print(json.dumps(result))
    else:
        for entries, seconds in zip(args.entries, (small, large), strict=True):
            print(f"{entries:>12,} entries  {seconds * 1e6:7.0f} µs a reserve")
        print(f"{'ratio':>12}          {ratio:7.2f}   ({args.keys} keys, median of paired rounds)")
    return 0 if ratio <= args.most else 1


def _keys(kind: str) -> Callable[[], str]:
    if kind == "random":
        return lambda: str(uuid4())
    numbers: Iterator[int] = count()
    return lambda: str(UUID(int=next(numbers)))


def _fill(path: Path, entries: int, key: Callable[[], str]) -> None:
    """A journal of so many entries, in one transaction of a connection that need not be durable."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL").fetchall()
    connection.execute("PRAGMA synchronous=OFF").fetchall()
    connection.execute("PRAGMA cache_size=-262144").fetchall()
    migrate(connection)
    ledger = FreeTier(POLICY, SQLiteRepository(connection))
    ledger.seed()
    written = 1
    while written < entries:
        connection.execute("BEGIN")
        for _ in range(min(50_000, entries - written)):
            ledger.record_grant(Request(key(), f"id-{written % IDENTITIES}", "elite", 1))
            written += 1
        connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.close()


def _seconds(ledger: FreeTier, key: Callable[[], str], reserves: int) -> float:
    """Seconds a reserve, over so many in a row, each committed to disk."""
    requests = [Request(key(), f"id-{n % IDENTITIES}", "elite", 1) for n in range(reserves)]
    started = time.perf_counter()
    for request in requests:
        ledger.reserve(request)
    return (time.perf_counter() - started) / reserves


if __name__ == "__main__":
    raise SystemExit(main())
