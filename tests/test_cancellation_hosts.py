"""Calls on a host's connection, cancelled at random: the host's rollback gives it back whole."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import aiosqlite
import asyncpg
import psycopg
import pytest
from attrs import frozen
from sqlalchemy.ext.asyncio import create_async_engine

import freetier
from freetier import AsyncFreeTier
from freetier.asyncpg import AsyncpgRepository
from freetier.postgres import AsyncPostgresRepository
from freetier.repository import AsyncRepository
from freetier.sqlalchemy import AsyncSQLAlchemyRepository
from freetier.sqlite import AsyncSQLiteRepository

from .cancelling import (
    KEYED,
    POLICY,
    UNKEYED,
    cancelled,
    check_the_file,
    check_the_server,
    listed,
    run,
)


@frozen
class Host:
    """A ledger on a host's connection, and how the host begins and undoes a transaction."""

    repository: AsyncRepository
    begin: Callable[[], Awaitable[Any]]
    rollback: Callable[[], Awaitable[Any]]


@asynccontextmanager
async def through_aiosqlite(path: str) -> AsyncIterator[Host]:
    async with aiosqlite.connect(path, isolation_level=None) as connection:
        repository = AsyncSQLiteRepository(connection)
        yield Host(repository, lambda: connection.execute("BEGIN"), connection.rollback)


@asynccontextmanager
async def through_psycopg(dsn: str) -> AsyncIterator[Host]:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        repository = AsyncPostgresRepository(connection)
        yield Host(repository, lambda: connection.execute("SELECT 1"), connection.rollback)


@asynccontextmanager
async def through_asyncpg(dsn: str) -> AsyncIterator[Host]:
    connection = await asyncpg.connect(dsn)
    try:
        yield Host(
            AsyncpgRepository(connection),
            lambda: connection.execute("BEGIN"),
            lambda: connection.execute("ROLLBACK"),
        )
    finally:
        await connection.close()


def through_sqlalchemy(scheme: str) -> Callable[[str], AbstractAsyncContextManager[Host]]:
    @asynccontextmanager
    async def through(database: str) -> AsyncIterator[Host]:
        url = f"{scheme}:///{database.removeprefix('postgresql:///')}"
        engine = create_async_engine(url)
        async with engine.connect() as connection:
            repository = AsyncSQLAlchemyRepository(connection)
            begin = lambda: connection.exec_driver_sql("SELECT 1")  # noqa: E731
            yield Host(repository, begin, connection.rollback)
        await engine.dispose()

    return through


HOSTS: dict[str, Callable[[str], AbstractAsyncContextManager[Host]]] = {
    "aiosqlite": through_aiosqlite,
    "psycopg": through_psycopg,
    "asyncpg": through_asyncpg,
    "sqlalchemy-aiosqlite": through_sqlalchemy("sqlite+aiosqlite"),
    "sqlalchemy-psycopg": through_sqlalchemy("postgresql+psycopg"),
    "sqlalchemy-asyncpg": through_sqlalchemy("postgresql+asyncpg"),
}


@pytest.mark.parametrize("through", HOSTS)
def test_the_hosts_rollback(request: pytest.FixtureRequest, tmp_path: Path, through: str) -> None:
    """60 calls are cancelled in the host's transactions: what they wrote is rolled back."""
    path = tmp_path / "ledger.db"
    on_sqlite = "sqlite" in through
    database = str(path) if on_sqlite else str(request.getfixturevalue("postgres_dsn"))
    chance = random.Random(1)

    async def main() -> None:
        async with HOSTS[through](database) as host:
            ledger = AsyncFreeTier(POLICY, host.repository)
            before = await listed(ledger.journal())
            number = in_time = 0
            while in_time < 60:
                number += 1
                await host.rollback()
                await host.begin()
                operation = chance.choice(KEYED)
                await operation.prepare(ledger, number)
                call = chance.choice([operation.call, chance.choice(UNKEYED)])
                in_time += await cancelled(call(ledger, number), chance, twice=False)
                await host.rollback()
                if on_sqlite:
                    check_the_file(path)
                assert await listed(ledger.journal()) == before
            await host.rollback()
            if not on_sqlite:
                await check_the_server(database, connections=True)

    with freetier.open(database, POLICY) as ledger:
        run(main)
        assert ledger.verify().ok
