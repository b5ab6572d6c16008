"""The ledgers that are measured: one policy, requests in any number, journals of any length."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, LiteralString
from urllib.parse import quote
from uuid import UUID, uuid4

import psycopg
from psycopg import sql

import freetier
from freetier import FreeTier, FreeTierPolicy, Request
from freetier._psycopg_blocking import Own
from freetier.postgres import PostgresRepository
from freetier.sqlite import SQLiteRepository, migrate

POLICY = FreeTierPolicy(seed_sats=10**12, budgets={"elite": 10**9})
IDENTITIES = 10_000
BATCH = 1_000

# Grants of one sat each, through the guard like any entry.
_FILL: LiteralString = """
INSERT INTO {schema}.freetier_journal (
  pool, seq, kind, key, at_us, identity, tier, day, price_sats, absorb_sats, charge_sats,
  budget_sats, floor_sats, rooms, balance_change, reserved_change, used_change, balance_sats,
  reserved_sats)
SELECT 'main', 0, 'grant', gen_random_uuid()::text, now.us, 'id-' || n %% %(identities)s, 'elite',
  now.us / 86400000000, 1, 1, 0, 1000000000, 0, '{{}}', -1, 0, 1, 0, 0
FROM generate_series(1, %(batch)s) AS n,
  (SELECT CAST(extract(epoch FROM statement_timestamp()) * 1000000 AS BIGINT) AS us) AS now
"""

Key = Callable[[], str]


def ordered_keys() -> Key:
    """Request ids that grow, as UUIDv7 or a counter does."""
    numbers: Iterator[int] = count()
    return lambda: str(UUID(int=next(numbers)))


def random_keys() -> Key:
    """Request ids like UUIDv4, which land anywhere in an index: the worst case."""
    return lambda: str(uuid4())


def requests(key: Key, identities: int = IDENTITIES) -> Callable[[], Request]:
    """Each call gives another request, of one sat, from the next identity."""
    numbers = count()
    return lambda: Request(key(), f"id-{next(numbers) % identities}", "elite", 1)


def fill_sqlite(path: Path, entries: int, key: Key) -> None:
    """A journal of so many entries, in one transaction of a connection that need not be durable."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL").fetchall()
        connection.execute("PRAGMA synchronous=OFF").fetchall()
        connection.execute("PRAGMA cache_size=-262144").fetchall()
        migrate(connection)
        ledger = FreeTier(POLICY, SQLiteRepository(connection))
        ledger.seed()
        request = requests(key)
        written = 1
        while written < entries:
            connection.execute("BEGIN")
            for _ in range(min(50_000, entries - written)):
                ledger.record_grant(request())
                written += 1
            connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def fill_postgres(url: str, schema: str, entries: int) -> None:
    """So many entries in a ledger that has its seed alone."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        for written in range(1, entries, BATCH):
            batch = min(BATCH, entries - written)
            fill = sql.SQL(_FILL).format(schema=sql.Identifier(schema))
            connection.execute(fill, {"batch": batch, "identities": IDENTITIES})
        connection.execute("VACUUM ANALYZE")


def sqlite_ledger(path: Path) -> FreeTier:
    """A ledger in a file, durable, on connections of the library's own."""
    return freetier.open(path, POLICY)


def sqlite_connection(path: Path, synchronous: LiteralString) -> sqlite3.Connection:
    """A connection in autocommit, in WAL, that waits for the disk as it is told."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL").fetchall()
    connection.execute(f"PRAGMA synchronous={synchronous}").fetchall()
    return connection


@contextmanager
def postgres_ledger(url: str, schema: str, entries: int = 1) -> Iterator[PostgresRepository]:
    """A ledger in a schema of its own with so many entries, on one connection."""
    with PostgresRepository(url, schema=schema, connections=1) as repository:
        FreeTier(POLICY, repository).seed()
        fill_postgres(url, schema, entries)
        yield repository


def connection_of(repository: PostgresRepository) -> psycopg.Connection[Any]:
    """The one connection of the repository's pool, for use between its own calls."""
    own = repository._connections
    assert isinstance(own, Own)
    with own._pool.connection() as connection:
        return connection


def flushing_slowly(url: str, us: int) -> str:
    """The URL for sessions that wait so long before each flush, as on a slower disk.

    Postgres does so to flush for several at once; whoever comes meanwhile goes along.
    """
    if not us:
        return url
    options = quote(f"-c commit_delay={us:d} -c commit_siblings=0")
    return f"{url}{'&' if '?' in url else '?'}options={options}"
