"""A host's own connection, of every kind that a ledger can be put on, in one shape for the tests.

A test is written once, in blocking code; an event loop of its own runs an async connection.
"""

from __future__ import annotations

import asyncio
import inspect
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    closing,
    contextmanager,
)
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import aiosqlite
import asyncpg
import psycopg
import pytest
import sqlalchemy
from attrs import frozen
from sqlalchemy.ext.asyncio import create_async_engine

import freetier
from freetier import AsyncFreeTier, FreeTier, FreeTierPolicy, migrations
from freetier._awaiting import AwaitingRepository
from freetier.asyncpg import AsyncpgRepository
from freetier.postgres import AsyncPostgresRepository, PostgresRepository
from freetier.repository import Repository
from freetier.sqlalchemy import AsyncSQLAlchemyRepository, SQLAlchemyRepository
from freetier.sqlite import AsyncSQLiteRepository, SQLiteRepository

POLICY = FreeTierPolicy(budgets={"new": 0, "trusted": 200}, seed_sats=10_000)

Opening = AbstractContextManager[Any] | AbstractAsyncContextManager[Any]
Wait = Callable[[Any], Any]


class Host:
    """A host's live connection with a ledger on it, and what a host does there itself."""

    def __init__(self, connection: Any, put: Callable[..., Any], wait: Wait) -> None:
        self.connection = connection
        self.wait = wait
        self._put = put

    @cached_property
    def repository(self) -> Repository:
        return cast("Repository", Blocking(self._put(self.connection), self.wait))

    @cached_property
    def ledger(self) -> FreeTier:
        return self.ledger_in(None)

    def ledger_in(self, schema: str | None) -> FreeTier:
        """A ledger whose tables are in this schema of Postgres."""
        repository = self._put(self.connection, **({} if schema is None else {"schema": schema}))
        awaiting = isinstance(repository, AwaitingRepository)
        ledger = (AsyncFreeTier if awaiting else FreeTier)(POLICY, repository)
        return cast("FreeTier", Blocking(ledger, self.wait))

    def migrate(self, schema: str | None = None) -> int:
        """Bring the schema up to date through the library."""
        if inspect.iscoroutinefunction(self.connection.close):
            return int(self.wait(migrations.migrate_async(self.connection, schema)))
        return migrations.migrate(self.connection, schema)

    @property
    def driver(self) -> Any:
        """The connection that SQLAlchemy has underneath; without it, the connection."""
        if isinstance(self.connection, sqlalchemy.engine.Connection):
            return self.connection.connection.driver_connection
        if hasattr(self.connection, "get_raw_connection"):
            return self.wait(self.connection.get_raw_connection()).driver_connection
        return self.connection

    def begin(self) -> None:
        """Nothing, where the first statement begins a transaction."""

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a statement of the host's own, and read its rows."""
        result = self.wait(self._execute(sql))
        if not getattr(result, "returns_rows", getattr(result, "description", None)):
            return []
        return [tuple(row) for row in self.wait(result.fetchall())]

    def _execute(self, sql: str) -> Any:
        if hasattr(self.connection, "exec_driver_sql"):
            return self.connection.exec_driver_sql(sql, None, {"no_parameters": True})
        return self.connection.execute(sql)

    def commit(self) -> None:
        self.wait(self.connection.commit())

    def rollback(self) -> None:
        self.wait(self.connection.rollback())

    def close(self) -> None:
        self.wait(self.connection.close())


class AsyncpgHost(Host):
    """asyncpg begins nothing unasked, and has the transaction as an object."""

    def begin(self) -> None:
        self._transaction = self.connection.transaction()
        self.wait(self._transaction.start())

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self.wait(self.connection.fetch(sql))]

    def commit(self) -> None:
        self.wait(self._transaction.commit())

    def rollback(self) -> None:
        self.wait(self._transaction.rollback())


class Blocking:
    """An object of which every method waits for what it gives."""

    def __init__(self, inner: object, wait: Wait) -> None:
        self._inner = inner
        self._wait = wait

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._inner, name)
        return lambda *args, **options: self._wait(method(*args, **options))


@asynccontextmanager
async def _psycopg(url: str, autocommit: bool) -> AsyncIterator[Any]:
    connection = await psycopg.AsyncConnection.connect(url, autocommit=autocommit)
    async with connection:
        yield connection


@asynccontextmanager
async def _asyncpg(url: str, _: bool) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


def _sqlite(connect: Callable[..., Any]) -> Callable[[str, bool], Any]:
    return lambda url, autocommit: connect(
        url, timeout=0, isolation_level=None if autocommit else ""
    )


def _sqlalchemy(create: Callable[..., Any], dialect: str, **connect_args: Any) -> Any:
    """How a host connects with SQLAlchemy over a driver."""

    def connect(url: str, autocommit: bool) -> Any:
        sqlite = dialect.startswith("sqlite")
        engine = create(
            f"{dialect}:///{url}" if sqlite else url.replace("postgresql:", f"{dialect}:"),
            poolclass=sqlalchemy.pool.NullPool,
            future=True,  # as 2 is, in 1.4
            connect_args=connect_args,
            **({"isolation_level": "AUTOCOMMIT"} if autocommit else {}),
        )
        return engine.connect()

    return connect


_blocking = sqlalchemy.create_engine
_async = create_async_engine
# What a host behind a pooler tells SQLAlchemy, so that its drivers prepare nothing under a name.
_PSYCOPG = {"prepare_threshold": None}
_ASYNCPG = {"prepared_statement_cache_size": 0, "prepared_statement_name_func": str}


@frozen
class Kind:
    """How a host connects to a URL, perhaps with a commit after each statement; what goes on it."""

    connect: Callable[[str, bool], Opening]
    repository: Callable[..., Any]
    host: type[Host] = Host


KINDS = {
    "sqlite3": Kind(
        lambda url, autocommit: closing(_sqlite(sqlite3.connect)(url, autocommit)),
        SQLiteRepository,
    ),
    "aiosqlite": Kind(_sqlite(aiosqlite.connect), AsyncSQLiteRepository),
    "sqlalchemy-sqlite3": Kind(_sqlalchemy(_blocking, "sqlite", timeout=0), SQLAlchemyRepository),
    "sqlalchemy-aiosqlite": Kind(
        _sqlalchemy(_async, "sqlite+aiosqlite", timeout=0), AsyncSQLAlchemyRepository
    ),
    "psycopg": Kind(
        lambda url, autocommit: closing(psycopg.connect(url, autocommit=autocommit)),
        PostgresRepository,
    ),
    "psycopg-async": Kind(_psycopg, AsyncPostgresRepository),
    "asyncpg": Kind(_asyncpg, AsyncpgRepository, AsyncpgHost),
    "sqlalchemy-psycopg": Kind(
        _sqlalchemy(_blocking, "postgresql+psycopg", **_PSYCOPG), SQLAlchemyRepository
    ),
    "sqlalchemy-psycopg-async": Kind(
        _sqlalchemy(_async, "postgresql+psycopg", **_PSYCOPG), AsyncSQLAlchemyRepository
    ),
    "sqlalchemy-asyncpg": Kind(
        _sqlalchemy(_async, "postgresql+asyncpg", **_ASYNCPG), AsyncSQLAlchemyRepository
    ),
}
ON_SQLITE = [name for name in KINDS if "sqlite" in name]
ON_POSTGRES = [name for name in KINDS if "sqlite" not in name]


@contextmanager
def connected(kind: str, url: str, *, autocommit: bool = False) -> Iterator[Host]:
    """A host's live connection of this kind, with a ledger on it."""
    made = KINDS[kind]
    opening = made.connect(url, autocommit)
    if isinstance(opening, AbstractContextManager):
        with opening as connection:
            yield made.host(connection, made.repository, lambda given: given)
        return
    with asyncio.Runner() as runner:

        def wait(given: Any) -> Any:
            async def waiting() -> Any:
                return await given

            return runner.run(waiting()) if inspect.isawaitable(given) else given

        connection = wait(opening.__aenter__())
        try:
            yield made.host(connection, made.repository, wait)
        finally:
            wait(opening.__aexit__(None, None, None))


class EveryConnection:
    """Tests on a host's connection of every kind, to a ledger that is migrated and seeded."""

    @pytest.fixture(params=KINDS)
    def kind(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture
    def url(self, kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
        """The ledger's database, in which the host has a table `job`."""
        url = str(
            tmp_path / "host.db" if kind in ON_SQLITE else request.getfixturevalue("postgres_dsn")
        )
        freetier.open(url, POLICY).close()
        with connected("sqlite3" if kind in ON_SQLITE else "psycopg", url) as host:
            host.execute("CREATE TABLE job (id TEXT NOT NULL)")
            host.commit()
        return url

    @pytest.fixture
    def host(self, kind: str, url: str) -> Iterator[Host]:
        with connected(kind, url) as host:
            yield host

    @pytest.fixture
    def other(self, url: str) -> Iterator[FreeTier]:
        """The same ledger on a connection of its own."""
        with freetier.open(url, POLICY) as ledger:
            yield ledger


class EveryPostgresConnection(EveryConnection):
    @pytest.fixture(params=ON_POSTGRES)
    def kind(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)
