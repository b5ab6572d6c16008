"""Empty ledgers on Postgres, and stores that live through a refusal inside a host's transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from datetime import datetime

import psycopg

from freetier._awaiting import AwaitingRepository
from freetier._blocking import BlockingRepository
from freetier.migrations import migrate
from freetier.repository import Ending
from tests.postgres_server import Server, database_name

SCHEMA = """the "host's" own: 100 %s :schema"""


@contextmanager
def migrated(server: Server) -> Iterator[str]:
    """The name of a database with an empty ledger in the schema SCHEMA: to be copied."""
    dsn = server.create()
    with psycopg.connect(dsn) as connection:
        migrate(connection, SCHEMA)
    yield database_name(dsn)
    server.drop(database_name(dsn))


@contextmanager
def copied(server: Server, template: str) -> Iterator[str]:
    """The dsn of a copy of a database, gone afterwards. It costs half of a migration."""
    dsn = server.create(template)
    yield dsn
    server.drop(database_name(dsn))


class InATransaction(BlockingRepository):
    """An ending that could never have been right is an error, which ends a transaction of Postgres.

    A host that would go on all the same asks for it in a savepoint.
    """

    savepoint: Callable[[], AbstractContextManager[object]]

    def end(self, ending: Ending) -> datetime | None:
        with self.savepoint():
            return super().end(ending)


class InATransactionAsync(AwaitingRepository):
    """`InATransaction` for async code."""

    savepoint: Callable[[], AbstractAsyncContextManager[object]]

    async def end(self, ending: Ending) -> datetime | None:
        async with self.savepoint():
            return await super().end(ending)
