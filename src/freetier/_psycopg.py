"""What blocking and async connections through psycopg have in common."""

from __future__ import annotations

import math
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cached_property
from typing import Any, Final, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.adapt import AdaptersMap, Dumper
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import tuple_row
from psycopg.types.numeric import Int8Dumper, IntLoader
from psycopg.types.string import StrDumperUnknown, TextLoader
from psycopg_pool import PoolClosed, PoolTimeout

from freetier._postgres_errors import translated
from freetier._postgres_own import GRACE_S, OPENING_S, check_replicated, session, unreadable
from freetier._postgres_text import check_encoding
from freetier.errors import ConfigError, FreeTierError, StoreUnavailable

Connection = psycopg.Connection[Any]
AsyncConnection = psycopg.AsyncConnection[Any]
# Of a server that lets nobody in, libpq has no SQLSTATE to tell, only the server's words.
_NOT_SET_UP = re.compile(
    r"authentication failed|no password supplied|no pg_hba\.conf entry|not permitted to log in"
    r"|(role|database) .* does not exist|permission denied for database"
    r"|invalid [\w ]+ value|invalid port|unrecognized configuration parameter"
)
Row = tuple[Any, ...]
T = TypeVar("T")

LONGEST_WAIT_S: Final = 0.5
"""How long to wait for a connection before the pool is asked again, and tries again to connect."""


class Ready:
    """How a connection of the library's own is made, and made ready."""

    def __init__(self, timeout_s: float, *, through_pooler: bool) -> None:
        self.timeout_s = timeout_s
        self._through_pooler = through_pooler

    def settings(self) -> dict[str, Any]:
        return {
            "autocommit": True,
            "client_encoding": "utf8",
            "connect_timeout": max(2, math.ceil(self.timeout_s)),  # libpq takes no less
            "prepare_threshold": None if self._through_pooler else 0,
        }

    @contextmanager
    def first(self, url: str) -> Iterator[OwnConnection]:
        """The connection that makes the schema. It sees what others have made of it meanwhile."""
        with OwnConnection.connect(url, **self.settings()) as connection:
            connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
            with asking(connection, max(self.timeout_s, OPENING_S)):
                yield connection

    @asynccontextmanager
    async def first_async(self, url: str) -> AsyncIterator[AsyncOwnConnection]:
        """`first`, for async code."""
        async with await AsyncOwnConnection.connect(url, **self.settings()) as connection:
            await connection.set_isolation_level(psycopg.IsolationLevel.READ_COMMITTED)
            with asking(connection, max(self.timeout_s, OPENING_S)):
                yield connection

    def configure(self, connection: OwnConnection) -> None:
        self._adapt(connection)
        if not self._through_pooler:
            with asking(connection, self.timeout_s):
                connection.execute(session(self.timeout_s).encode())

    async def configure_async(self, connection: AsyncOwnConnection) -> None:
        self._adapt(connection)
        if not self._through_pooler:
            with asking(connection, self.timeout_s):
                await connection.execute(session(self.timeout_s).encode())

    def _adapt(self, connection: Connection | AsyncConnection) -> None:
        # By default each int is sent as the smallest type that holds it, and each mixture of
        # types is prepared as a statement of its own.
        connection.adapters.register_dumper(int, Int8Dumper)
        connection.adapters.register_dumper(list, _ArrayDumper)


class _ArrayDumper(Dumper):
    """An array of whole numbers or of text, as Postgres writes it, for the server to type.

    psycopg's own looks up how to send each item, and types an array by its largest number.
    """

    def dump(self, obj: list[Any]) -> bytes:
        if str in map(type, obj):
            items = ",".join(map(_quoted, obj))
        else:
            items = str(obj)[1:-1].replace("None", "NULL")
        return f"{{{items}}}".encode()


def _quoted(text: str | None) -> str:
    if text is None:
        return "NULL"
    text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


class OwnConnection(psycopg.Connection[Any]):
    """A connection of the library's own: it waits for no answer beyond its deadline."""

    deadline = math.inf

    @cached_property
    def kept_cursor(self) -> psycopg.RawCursor[Row]:
        """The cursor for every statement: to make one each costs as much as half a read."""
        return psycopg.RawCursor(self, row_factory=tuple_row)

    def wait(self, gen: PQGen[T], *args: Any, **kwargs: Any) -> T:
        return super().wait(_in_time(gen, self), *args, **kwargs)


class AsyncOwnConnection(psycopg.AsyncConnection[Any]):
    """`OwnConnection`, for async code."""

    deadline = math.inf

    @cached_property
    def kept_cursor(self) -> psycopg.AsyncRawCursor[Row]:
        """The cursor for every statement."""
        return psycopg.AsyncRawCursor(self, row_factory=tuple_row)

    async def wait(self, gen: PQGen[T], *args: Any, **kwargs: Any) -> T:
        return await super().wait(_in_time(gen, self), *args, **kwargs)


def _in_time(steps: PQGen[T], connection: OwnConnection | AsyncOwnConnection) -> PQGen[T]:
    """`steps`, as long as the server answers in time.

    A connection whose server does not is closed, not cancelled: a cancel needs an answer too, and
    what waits for a standby would be answered as if the standby had it.
    """
    try:
        wanted = next(steps)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > connection.deadline:
                connection.pgconn.finish()
                raise psycopg.OperationalError("no answer in time")
            wanted = steps.send(ready)
    except StopIteration as done:
        result: T = done.value
        return result


@contextmanager
def asking(connection: OwnConnection | AsyncOwnConnection, timeout_s: float) -> Iterator[None]:
    """What is asked inside is answered in time; what is committed is where the server wants it.

    Else it raises: `psycopg.OperationalError`, `OutcomeUnknown`.
    """
    sources: list[str | None] = []

    def warned(warning: psycopg.errors.Diagnostic) -> None:
        sources.append(warning.source_function)  # there is nothing to read in it afterwards

    connection.add_notice_handler(warned)
    connection.deadline = time.monotonic() + timeout_s + GRACE_S
    try:
        yield
    finally:
        connection.remove_notice_handler(warned)
    check_replicated(sources)


def adapt_plainly(adapters: AdaptersMap) -> None:
    """Numbers and text as they are, whatever a host has registered for its connection."""
    adapters.register_dumper(int, Int8Dumper)
    adapters.register_dumper(str, StrDumperUnknown)
    adapters.register_loader("int8", IntLoader)
    adapters.register_loader("text", TextLoader)


def check_open(connection: Connection | AsyncConnection) -> None:
    if connection.closed:
        raise StoreUnavailable("Postgres: the connection is closed")


def check_hosts(connection: Connection | AsyncConnection) -> None:
    """Raise `StoreUnavailable` if it is closed, `ConfigError` if it does not speak UTF-8."""
    check_open(connection)
    check_encoding(connection.info.parameter_status("client_encoding"))


def check_readable(url: str) -> None:
    """Raise `ConfigError` for a URL that libpq cannot read."""
    try:
        conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise unreadable() from None


def not_let_in(error: psycopg.Error) -> FreeTierError:
    if error.sqlstate is None and _NOT_SET_UP.search(str(error)):
        return ConfigError(f"Postgres: {error}")
    return from_psycopg(error, writes=False)


def not_to_be_had(error: psycopg.Error) -> FreeTierError:
    if isinstance(error, PoolClosed):
        return ConfigError("the ledger was closed")
    if isinstance(error, PoolTimeout):
        return StoreUnavailable("Postgres: no connection in time")
    return from_psycopg(error, writes=False)


def from_psycopg(error: psycopg.Error, *, writes: bool) -> FreeTierError:
    return translated(error.sqlstate, str(error), writes=writes)
