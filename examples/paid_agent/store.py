"""The service's database: its records and the ledger, on one connection and in one transaction."""

from __future__ import annotations

import asyncio
from asyncio import Lock
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

import freetier
from freetier import AsyncFreeTier, FreeTierPolicy, StoreUnavailable
from freetier.jobs import Job
from freetier.sessions import Session, SessionRequest
from freetier.sqlalchemy import AsyncSQLAlchemyRepository
from freetier.tables import Table, Tables, statements, tables
from freetier.values import to_us

DRIVERS = {
    "sqlite": ("sqlite", "sqlite+aiosqlite"),
    "postgresql": ("postgres", "postgresql+psycopg"),
}
PAGE = 100
PATIENCE_S = 10
"""How long a caller waits for a connection, for the turn to write, and for a lock."""
R = TypeVar("R", Job, Session, SessionRequest)


class Overtaken(Exception):
    """Somebody else wrote the record since it was read: nothing was written, read it again."""


class Books:
    """The records and the ledger, on one connection: all of it is kept, or none."""

    def __init__(self, connection: AsyncConnection, policy: FreeTierPolicy, of: Tables) -> None:
        self.connection = connection
        self.tables = of
        self.ledger = AsyncFreeTier(policy, AsyncSQLAlchemyRepository(connection))

    async def find(self, table: Table[R], record_id: str) -> R | None:
        """The record of an id."""
        return next(iter(await self._read(table, table.select, {"id": record_id})), None)

    async def by_invoice(self, invoice_id: str) -> Job | Session | None:
        """What an invoice is for."""
        sought = {"invoice_id": invoice_id}
        for job in await self._read(self.tables.jobs, self.tables.job_by_invoice, sought):
            return job
        by_invoice = self.tables.session_by_invoice
        for session in await self._read(self.tables.sessions, by_invoice, sought):
            return session
        return None

    async def take_for_refund(self, payment_hash: str, record: Job | Session) -> bool:
        """Keep a payment for this record's refund; False if it is, or was, another's."""
        of_job = isinstance(record, Job)
        sql = text(self.tables.job_refund if of_job else self.tables.session_refund)
        values = {"payment_hash": payment_hash, "id": record.id}
        return bool((await self.connection.execute(sql, values)).all())

    async def promised_elsewhere(self, session: Session) -> int:
        """What the identity's other sessions count on from the pool, in sats."""
        values = {"identity": session.identity, "session_id": session.id}
        found = await self.connection.execute(text(self.tables.promised_elsewhere), values)
        return int(found.scalar_one())

    async def unfinished(self, table: Table[R], after: str) -> list[R]:
        """A page of the records that have a next step."""
        return await self._read(table, table.unfinished, {"after": after, "most": PAGE})

    async def expired(self, table: Table[R], since: datetime, after: str) -> list[R]:
        """A page of those that ended for want of a payment, from a time and an id on."""
        values = {"since_us": to_us(since), "after": after, "most": PAGE}
        return await self._read(table, table.expired, values)

    async def select(self, table: Table[R], sql: str, values: dict[str, Any]) -> list[R]:
        """The records that a statement of the service's own finds."""
        return await self._read(table, sql, values)

    async def insert(self, table: Table[R], record: R) -> bool:
        """Note a new record; False if its id was there before."""
        return bool((await self.connection.execute(text(table.insert), table.row(record))).all())

    async def update(self, table: Table[R], before: R, after: R) -> None:
        """Note what became of a record since it was read. Raises `Overtaken`."""
        change = table.change(before, after)
        if not (await self.connection.execute(text(table.update), change)).all():
            raise Overtaken

    async def _read(self, table: Table[R], sql: str, values: dict[str, Any]) -> list[R]:
        found = await self.connection.execute(text(sql), values)
        return [table.record(dict(row)) for row in found.mappings()]


class Store:
    """Transactions on the database. SQLite takes one writer at a time: ours queue up for it."""

    def __init__(self, engine: AsyncEngine, policy: FreeTierPolicy, dialect: str) -> None:
        self._engine = engine
        self._policy = policy
        self._tables = tables(dialect)
        self._turn = Lock() if dialect == "sqlite" else None

    @property
    def tables(self) -> Tables:
        """The statements."""
        return self._tables

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[Books]:
        """A transaction that commits at its end, or rolls back on an error."""
        async with AsyncExitStack() as held:
            if self._turn is not None:
                try:
                    async with asyncio.timeout(PATIENCE_S):
                        await held.enter_async_context(self._turn)
                except TimeoutError as error:
                    raise StoreUnavailable("too many wait to write") from error
            connection = await held.enter_async_context(self._engine.begin())
            yield Books(connection, self._policy, self._tables)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Books]:
        """A connection to read by; each statement sees what is committed."""
        async with self._engine.connect() as connection:
            reader = await connection.execution_options(isolation_level="AUTOCOMMIT")
            yield Books(reader, self._policy, self._tables)


@asynccontextmanager
async def opened(url: str, policy: FreeTierPolicy, *more_tables: str) -> AsyncIterator[Store]:
    """The store at a URL (`sqlite:///file.db`, `postgresql://…`), with its tables and ledger."""
    scheme, _, rest = url.partition(":")
    dialect, driver = DRIVERS[scheme]
    async with freetier.open_async(url, policy):
        pass  # migrates the ledger, and seeds its pool once
    engine = create_async_engine(
        f"{driver}:{rest}",
        pool_size=20,
        max_overflow=0,
        pool_timeout=PATIENCE_S,
        connect_args=(
            {"timeout": PATIENCE_S}
            if dialect == "sqlite"
            else {"options": f"-c lock_timeout={PATIENCE_S}s"}
        ),
    )
    if dialect == "sqlite":
        _begin_as_a_writer(engine)
    try:
        async with engine.begin() as connection:
            for statement in (*_missing(dialect), *more_tables):
                await connection.exec_driver_sql(statement)
        yield Store(engine, policy, dialect)
    finally:
        await engine.dispose()


def _missing(dialect: str) -> list[str]:
    """The tables, unless they are there. A service with a migration tool of its own uses that."""
    return [
        statement.replace("CREATE TABLE ", "CREATE TABLE IF NOT EXISTS ").replace(
            "CREATE INDEX ", "CREATE INDEX IF NOT EXISTS "
        )
        for statement in statements(dialect)
    ]


def _begin_as_a_writer(engine: AsyncEngine) -> None:
    """A transaction of SQLite that reads first and then writes fails when another one wrote.

    So each begins as a writer. And what it has committed is on the disk: FULL, as the ledger's.
    """

    @event.listens_for(engine.sync_engine, "connect")
    def no_begin_of_the_driver(connection: Any, _: object) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Any) -> None:
        if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
