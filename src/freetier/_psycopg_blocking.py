"""Connections through psycopg in blocking code: a host's, or a pool of the library's own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol

import psycopg
from psycopg.rows import tuple_row
from psycopg_pool import ConnectionPool

from freetier._fork import ForkGuard
from freetier._patience import AWAY_PAUSE_S, Patience
from freetier._psycopg import (
    LONGEST_WAIT_S,
    Connection,
    OwnConnection,
    adapt_plainly,
    asking,
    check_hosts,
    check_open,
    from_psycopg,
    not_to_be_had,
)
from freetier.errors import FreeTierError

Rows = Sequence[Sequence[Any]]
Arguments = Sequence[Any]


class Connections(Protocol):
    def fetch(self, text: str, arguments: Arguments, *, writes: bool) -> Rows: ...

    def close(self) -> None: ...


class Hosts:
    """One connection that belongs to the host."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def fetch(self, text: str, arguments: Arguments, *, writes: bool) -> Rows:
        try:
            return _fetch(self._connection, text, arguments)
        except psycopg.Error as error:
            raise from_psycopg(error, writes=writes) from error

    def close(self) -> None:
        """Nothing: the connection is the host's."""


class Own:
    """A pool of connections."""

    def __init__(self, pool: ConnectionPool[OwnConnection], timeout_s: float) -> None:
        self._pool = pool
        self._timeout_s = timeout_s
        self._fork = ForkGuard()

    def fetch(self, text: str, arguments: Arguments, *, writes: bool) -> Rows:
        self._fork.check()
        patience = Patience(self._timeout_s, AWAY_PAUSE_S)
        while True:
            try:
                return self._try(text, arguments, patience, writes=writes)
            except FreeTierError as error:
                time.sleep(patience.pause(error))

    def close(self) -> None:
        if not self._fork.forked():
            self._pool.close()

    def _try(self, text: str, arguments: Arguments, patience: Patience, *, writes: bool) -> Rows:
        try:
            connection = self._pool.getconn(min(patience.left_s(), LONGEST_WAIT_S))
        except psycopg.Error as error:
            raise not_to_be_had(error) from error
        try:
            with asking(connection, patience.left_s()):
                check_open(connection)
                return connection.kept_cursor.execute(text.encode(), arguments).fetchall()
        except psycopg.Error as error:
            raise from_psycopg(error, writes=writes) from error
        finally:
            self._pool.putconn(connection)


def _fetch(connection: Connection, text: str, arguments: Arguments) -> Rows:
    check_hosts(connection)
    # Not connection.cursor(): a host's may give cursors and rows of another kind.
    with psycopg.RawCursor(connection, row_factory=tuple_row) as cursor:
        adapt_plainly(cursor.adapters)
        cursor.execute(text.encode(), arguments, prepare=False)
        return cursor.fetchall()
