"""Calls to cancel at random, and what must not be left behind then."""

from __future__ import annotations

import asyncio
import gc
import random
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import psycopg
from attrs import frozen

from freetier import AsyncFreeTier, FreeTierPolicy, Kind, Request
from freetier._awaiting import AwaitingRepository
from freetier._sql import Query

POLICY = FreeTierPolicy(seed_sats=1_000_000)


def request(name: str, number: int, tier: str = "elite") -> Request:
    return Request(f"{name}-{number}", f"id-{number}", tier, 3)


@frozen
class Operation:
    """A call with a key of its own; the entry it writes, and what it says that this moves."""

    kind: Kind
    key: str
    call: Callable[[AsyncFreeTier, int], Awaitable[Any]]
    moved: Callable[[Any], tuple[int, int]]

    async def prepare(self, ledger: AsyncFreeTier, number: int) -> None:
        """Make the grant that the call ends, if it ends one."""
        if self.kind in (Kind.SETTLE, Kind.RELEASE):
            await ledger.reserve(request(self.key, number))


KEYED = [
    Operation(
        Kind.RESERVE,
        "job",
        lambda ledger, number: ledger.reserve(request("job", number)),
        lambda grant: (0, grant.absorb_sats),
    ),
    Operation(
        Kind.RESERVE,
        "brief",
        lambda ledger, number: ledger.reserve(request("brief", number), ttl=timedelta.resolution),
        lambda grant: (0, grant.absorb_sats),
    ),
    Operation(
        Kind.GRANT,
        "paid",
        lambda ledger, number: ledger.record_grant(request("paid", number)),
        lambda grant: (-grant.absorb_sats, 0),
    ),
    Operation(
        Kind.SETTLE,
        "held",
        lambda ledger, number: ledger.settle(f"held-{number}", 2),
        lambda settlement: (-settlement.absorbed_sats, -3),
    ),
    Operation(
        Kind.RELEASE,
        "kept",
        lambda ledger, number: ledger.release(f"kept-{number}"),
        lambda grant: (0, -grant.absorb_sats),
    ),
    Operation(
        Kind.CREDIT,
        "payment",
        lambda ledger, number: ledger.credit(f"payment-{number}", 15),
        lambda credit: (credit.credited_sats, 0),
    ),
    Operation(
        Kind.DONATION,
        "gift",
        lambda ledger, number: ledger.donate(f"gift-{number}", 1),
        lambda entry: (entry.balance_change, entry.reserved_change),
    ),
]


async def listed(rows: Any) -> list[Any]:
    return [row async for row in rows]


UNKEYED: list[Callable[[AsyncFreeTier, int], Awaitable[Any]]] = [
    lambda ledger, number: ledger.reserve(request("gate", number, "new")),
    lambda ledger, _: ledger.sweep(),
    lambda ledger, _: ledger.pool_status(),
    lambda ledger, _: ledger.verify(),
    lambda ledger, _: listed(ledger.journal()),
    lambda ledger, _: listed(ledger.open_grants()),
]


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run it in an event loop that has nothing to complain of; no task and no thread stays."""
    complaints: list[dict[str, Any]] = []
    threads = set(threading.enumerate())

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, about: complaints.append(about))
        await main()
        await asyncio.wait_for(asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}), 10)

    asyncio.run(watched())
    gc.collect()
    assert complaints == []
    for thread in set(threading.enumerate()) - threads:
        thread.join(10)
        assert not thread.is_alive(), thread


async def cancelled(
    call: Awaitable[Any], chance: random.Random, within_s: float = 0.004, *, twice: bool = True
) -> bool:
    """Start a call and cancel it at some moment, at times twice; whether that came in time."""
    task = asyncio.ensure_future(call)
    if chance.random() < 0.5:
        await asyncio.sleep(chance.uniform(0, within_s))
    else:
        for _ in range(chance.randrange(1, 20)):  # 0: its task would not have begun
            await asyncio.sleep(0)
    in_time = task.cancel()
    if twice and chance.random() < 0.1:
        await asyncio.sleep(0)
        task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert task.cancelled() == in_time  # a cancellation that is lost leaves its task running
    return in_time


async def check_the_server(dsn: str, connections: bool) -> None:
    """No connection is in a transaction, none has a lock; if need be, there is none at all."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    query += " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    if connections:
        query += " AND (state <> 'idle' OR pid IN (SELECT pid FROM pg_locks))"
    with psycopg.connect(dsn, autocommit=True) as connection:
        for _ in range(1000):  # what a client left, the server notices a little later
            left = connection.execute(query.encode()).fetchone()
            if left == (0,):
                return
            await asyncio.sleep(0.01)
    raise AssertionError(f"{left} connections are left")


async def check_the_pool(ledger: AsyncFreeTier, dsn: str) -> None:
    """10 calls at once are served by 10 connections."""
    repository = cast("AwaitingRepository", ledger.repository)
    waits = "SELECT pg_backend_pid(), pg_advisory_xact_lock_shared(1)"
    query: Query[int] = Query(waits, {}, lambda rows: rows[0][0])
    waiting = b"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(1)")
        calls = [asyncio.create_task(repository.run(query)) for _ in range(10)]
        while connection.execute(waiting).fetchone() != (10,):
            assert not any(call.done() for call in calls)
            await asyncio.sleep(0.01)
        connection.execute("SELECT pg_advisory_unlock(1)")
        assert len(set(await asyncio.gather(*calls))) == 10


def check_the_file(path: Path) -> None:
    """Nobody has a lock: another connection may write at once."""
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")


async def check_closed(path: Path) -> None:
    """Nobody has the file open, and no thread of ours is left."""
    for _ in range(1000):  # the thread ends by itself
        threads = [thread for thread in threading.enumerate() if "freetier" in thread.name]
        if not threads and not path.with_name(f"{path.name}-wal").exists():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{path} is open, or one of {threads} is left")
