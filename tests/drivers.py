"""A ledger on Postgres through each driver, on connections of the library's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from freetier import AsyncFreeTier, FreeTier, FreeTierPolicy, Request
from freetier._sql import Query
from freetier.asyncpg import AsyncpgRepository
from freetier.postgres import AsyncPostgresRepository, PostgresRepository
from freetier.testing.async_contract import Blocking, blocking

Driver = Callable[..., Any]

POLICY = FreeTierPolicy(budgets={"new": 0, "elite": 1_000_000}, seed_sats=10_000_000)

every_driver = pytest.mark.parametrize(
    "driver",
    [PostgresRepository, AsyncPostgresRepository, AsyncpgRepository],
    ids=["psycopg", "psycopg-async", "asyncpg"],
)


def job(name: str) -> Request:
    """A request that the policy grants, for 5 sats."""
    return Request(name, "ada", "elite", 5)


@contextmanager
def opened(
    driver: Driver, dsn: str, *, policy: FreeTierPolicy = POLICY, **options: Any
) -> Iterator[FreeTier]:
    """The ledger through that driver, seeded. An async one waits in a thread of its own."""
    store = driver(dsn, **options)
    if driver is PostgresRepository:
        with store:
            ledger = FreeTier(policy, store)
            ledger.seed()
            yield ledger
    else:
        with blocking(store) as face:
            ledger = cast("FreeTier", Blocking(AsyncFreeTier(policy, face.target), face.loop))
            ledger.seed()
            yield ledger


def rows(ledger: FreeTier, sql: str) -> list[tuple[Any, ...]]:
    """What a statement gives on one of the ledger's own connections."""
    query = Query(sql, {}, lambda found: [tuple(row) for row in found])
    if isinstance(ledger, Blocking):
        repository = ledger.target.repository
        return cast("list[tuple[Any, ...]]", ledger.wait(repository.run(query)))
    return cast("PostgresRepository", ledger.repository).run(query)
