"""What a reserve costs on Postgres, durable, against one UPDATE of one row on the same connection.

    python -m benchmarks.postgres              a server of its own; 1,000 and 1,000,000 entries
    python -m benchmarks.postgres --entries 1000 20000
    python -m benchmarks.postgres --flush-us 1000               as on a disk that much slower
    python -m benchmarks.postgres --url postgresql:///bench     a database that is written to

Both wait for one flush of the disk; the rest is work of the processors. So the ratios are those of
one machine: the faster its disk, the higher they are. `--flush-us` shows them for a slower one.
Everything is measured in turn on one connection, round by round, so that a machine that slows down
slows all of it. The figures to read are the ratios: medians of the rounds' own ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from itertools import count
from typing import Any, LiteralString
from uuid import uuid4

import psycopg
from psycopg import sql

from freetier import FreeTier, FreeTierPolicy, Request, _sql
from freetier._postgres_text import numbered
from freetier._psycopg_blocking import Own
from freetier.postgres import PostgresRepository
from freetier.repository import Draw
from freetier.values import Kind
from tests.postgres_server import server

POLICY = FreeTierPolicy(seed_sats=10**12, budgets={"elite": 10**9})
IDENTITIES = 10_000
DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
BATCH = 1_000

# Grants of one sat each, through the guard like any entry.
FILL: LiteralString = """
INSERT INTO {schema}.freetier_journal (
  pool, seq, kind, key, at_us, identity, tier, day, price_sats, absorb_sats, charge_sats,
  budget_sats, floor_sats, rooms, balance_change, reserved_change, used_change, balance_sats,
  reserved_sats)
SELECT 'main', 0, 'grant', gen_random_uuid()::text, now.us, 'id-' || n %% %(identities)s, 'elite',
  now.us / 86400000000, 1, 1, 0, 1000000000, 0, '{{}}', -1, 0, 1, 0, 0
FROM generate_series(1, %(batch)s) AS n,
  (SELECT CAST(extract(epoch FROM statement_timestamp()) * 1000000 AS BIGINT) AS us) AS now
"""
TARGETS = {"statement": 1.5, "reserve": 2.0, "growth": 1.5}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What a reserve costs on Postgres.")
    parser.add_argument("--url", help="a database to use (default: a throw-away server)")
    parser.add_argument("--entries", type=int, nargs=2, default=[1_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--calls", type=int, default=50, help="calls a round")
    parser.add_argument("--flush-us", type=int, default=0, help="µs that each flush takes longer")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    with _database(args.url) as url, ExitStack() as stack:
        small, large = (
            stack.enter_context(_filled(url, f"entries_{entries}", entries))
            for entries in args.entries
        )
        for ledger in (small, large):
            _flush_slowly(_connection_of(ledger), args.flush_us)
        connection = _connection_of(small)
        connection.execute("CREATE TABLE one (id int PRIMARY KEY, n bigint) WITH (fillfactor=10)")
        connection.execute("INSERT INTO one VALUES (1, 0)")
        cursor = psycopg.RawCursor(connection)
        subjects: dict[str, Callable[[], object]] = {
            "update": lambda: cursor.execute(b"UPDATE one SET n = n + 1 WHERE id = $1", (1,)),
            "statement": _statement(small),
            "reserve": _reserve(small),
            "reserve_large": _reserve(large),
        }
        rounds = [
            {name: _seconds(call, args.calls) for name, call in subjects.items()}
            for _ in range(args.rounds + 3)
        ][3:]  # the first ones warm caches and plans
        version = connection.info.server_version // 10_000
    return _report(rounds, args.entries, version, as_json=args.json)


@contextmanager
def _database(url: str | None) -> Iterator[str]:
    if url is not None:
        yield url
        return
    with server(**DURABLE, shared_buffers="512MB", max_wal_size="2GB") as throw_away:
        yield throw_away.dsn()


@contextmanager
def _filled(url: str, schema: str, entries: int) -> Iterator[PostgresRepository]:
    """A ledger of its own with so many entries, on one connection."""
    with PostgresRepository(url, schema=schema, connections=1) as repository:
        FreeTier(POLICY, repository).seed()
        started = time.perf_counter()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("SET synchronous_commit = off")
            for written in range(1, entries, BATCH):
                batch = min(BATCH, entries - written)
                fill = sql.SQL(FILL).format(schema=sql.Identifier(schema))
                connection.execute(fill, {"batch": batch, "identities": IDENTITIES})
            connection.execute("VACUUM ANALYZE")
        print(f"{entries:,} entries in {time.perf_counter() - started:.0f} s", file=sys.stderr)
        yield repository


def _connection_of(repository: PostgresRepository) -> psycopg.Connection[Any]:
    """The one connection of the repository's pool, for use between its own calls."""
    own = repository._connections
    assert isinstance(own, Own)
    with own._pool.connection() as connection:
        return connection


def _flush_slowly(connection: psycopg.Connection[Any], us: int) -> None:
    """Postgres waits so long before it flushes, as it does to flush for several at once."""
    connection.execute("SET commit_siblings = 0")
    connection.execute(f"SET commit_delay = {us:d}".encode())


def _statement(repository: PostgresRepository) -> Callable[[], object]:
    """The statement that records, alone, as the UPDATE is run: through a cursor of the driver."""
    cursor = psycopg.RawCursor(_connection_of(repository))
    snapshot = repository.look("none", None).snapshot
    request = Request("request", "id-statement", "elite", 1)
    decision, caps = POLICY.decide(request, snapshot), POLICY.caps(request, snapshot.at)
    expires_at = snapshot.at + timedelta(minutes=15)
    query = _sql.draw(Draw(Kind.RESERVE, request, decision, caps, snapshot.at, expires_at))
    text, names = numbered(query.text, repository._schema)

    def record() -> object:
        params = {**query.params, "key": str(uuid4())}
        rows = cursor.execute(text.encode(), [params[name] for name in names]).fetchall()
        assert len(rows) == 1
        return rows

    return record


def _reserve(repository: PostgresRepository) -> Callable[[], object]:
    """The whole of it: look, decide, record."""
    ledger = FreeTier(POLICY, repository)
    numbers = count()

    def reserve() -> object:
        identity = f"id-{next(numbers) % IDENTITIES}"
        return ledger.reserve(Request(str(uuid4()), identity, "elite", 1))

    return reserve


def _seconds(call: Callable[[], object], calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - started) / calls


def _report(
    rounds: list[dict[str, float]], entries: Sequence[int], version: int, *, as_json: bool
) -> int:
    ratios = {
        "statement": statistics.median(r["statement"] / r["update"] for r in rounds),
        "reserve": statistics.median(r["reserve"] / r["update"] for r in rounds),
        "growth": statistics.median(r["reserve_large"] / r["reserve"] for r in rounds),
    }
    us = {name: round(statistics.median(r[name] for r in rounds) * 1e6) for name in rounds[0]}
    if as_json:
        shown = {name: round(ratio, 2) for name, ratio in ratios.items()}
        print(json.dumps({"postgres": version, "entries": entries, "us": us, "ratios": shown}))
    else:
        small, large = (f"{number:,}" for number in entries)
        print(f"Postgres {version}, durable, one connection; µs: {us}")
        for name, meaning in (
            ("statement", "the statement that records / one UPDATE"),
            ("reserve", "a whole reserve / one UPDATE"),
            ("growth", f"a reserve at {large} entries / at {small}"),
        ):
            print(f"{ratios[name]:6.2f}  {meaning}  (to reach: {TARGETS[name]})")
    return 0 if all(ratios[name] <= most for name, most in TARGETS.items()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
