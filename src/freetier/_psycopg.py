"""What blocking and async connections through psycopg have in common."""

from __future__ import annotations

import math
from typing import Any

import psycopg
from psycopg.types.numeric import Int8Dumper
from psycopg_pool import PoolClosed, PoolTimeout

from freetier._postgres_errors import translated
from freetier._postgres_own import session
from freetier.errors import ConfigError, FreeTierError, StoreUnavailable

Connection = psycopg.Connection[Any]
AsyncConnection = psycopg.AsyncConnection[Any]


class Ready:
    """How a connection of the library's own is made, and made ready."""

    def __init__(self, timeout_s: float, *, through_pooler: bool) -> None:
        self.timeout_s = timeout_s
        self._through_pooler = through_pooler

    def whole_s(self) -> int:
        return max(2, math.ceil(self.timeout_s))  # libpq takes no less

    def settings(self) -> dict[str, Any]:
        return {
            "autocommit": True,
            "connect_timeout": self.whole_s(),
            "prepare_threshold": None if self._through_pooler else 0,
        }

    def configure(self, connection: Connection) -> None:
        self._adapt(connection)
        if not self._through_pooler:
            connection.execute(session(self.timeout_s).encode())

    async def configure_async(self, connection: AsyncConnection) -> None:
        self._adapt(connection)
        if not self._through_pooler:
            await connection.execute(session(self.timeout_s).encode())

    def _adapt(self, connection: Connection | AsyncConnection) -> None:
        # By default each int is sent as the smallest type that holds it, and each mixture of
        # types is prepared as a statement of its own.
        connection.adapters.register_dumper(int, Int8Dumper)


def check_open(connection: Connection | AsyncConnection) -> None:
    if connection.closed:
        raise StoreUnavailable("Postgres: the connection is closed; nothing was written")


def not_to_be_had(error: psycopg.Error) -> FreeTierError:
    if isinstance(error, PoolClosed):
        return ConfigError("the ledger was closed")
    if isinstance(error, PoolTimeout):
        return StoreUnavailable(f"Postgres: no connection in time; nothing was written ({error})")
    return from_psycopg(error, writes=False)


def from_psycopg(error: psycopg.Error, *, writes: bool) -> FreeTierError:
    return translated(error.sqlstate, str(error), writes=writes)
