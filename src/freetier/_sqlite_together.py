"""Several operations in one transaction of SQLite: one wait for its lock, one flush of the disk."""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn, TypeVar

from freetier import _sqlite_schema
from freetier._blocking import BlockingRepository
from freetier._clock import with_clock
from freetier._gathering import Call, Gathering, Others
from freetier._sql import Query
from freetier._sqlite_errors import translated
from freetier._sqlite_own import Own
from freetier.errors import (
    FreeTierError,
    OutcomeUnknown,
    StoreFull,
    StoreReadOnly,
    StoreUnavailable,
)
from freetier.steps import Operation, perform

T = TypeVar("T")
Wanted = Call[Operation[Any]]


class Together:
    """The operations of several callers on one file, as if each were alone.

    alone: the store on which an operation is done by itself.
    """

    def __init__(self, own: Own, alone: BlockingRepository) -> None:
        self._own = own
        self._alone = alone
        self._gathering = Gathering(partial(_performed, alone), self._do)

    def perform(self, operation: Operation[T]) -> T:
        """What a thread's operation gives, done together with those of other threads."""
        self._own.check()  # in a child of a fork, who leads is not there
        given: T = self._gathering.do(operation)
        return given

    def attempt(self, calls: Sequence[Wanted]) -> None:
        """Make an attempt at each call, in order, all together where there are several."""
        left = deque(calls)
        while left:
            first = left.popleft()
            if left:
                self._do(first, lambda: _emptied(left))
            else:
                first.attempt(partial(_performed, self._alone))

    def _do(self, first: Wanted, others: Others[Operation[Any]]) -> None:
        """Do `first`, and the others that are there once the file's lock is had.

        If it is not to be had in time, `first` is refused, and no other. A statement that fails is
        undone by itself, and is its own caller's affair. If all of it is undone, each is done anew
        by itself, to meet its own fate.
        """
        calls = [first]
        locked = False

        def work(connection: sqlite3.Connection) -> None:
            nonlocal locked
            connection.execute("BEGIN IMMEDIATE")
            locked = True
            calls.extend(others())
            inside = _Inside(connection, self._own.path)
            for call in calls:
                call.attempt(partial(_performed, inside))
            connection.execute("COMMIT")  # fails, too, where a failure has undone the whole

        try:
            self._own.patiently(work, writes=True, since=first.since)
        except FreeTierError as error:
            if not locked:
                first.attempt(partial(_performed, _Refusing(error)))
                return
            unknown = isinstance(error, OutcomeUnknown)
            anew = _Unsure(self._alone, error) if unknown else self._alone
            for call in calls:
                call.attempt(partial(_performed, anew))


class _Inside(BlockingRepository):
    """The ledger within a transaction. Nothing is tried again: that is for the whole of it."""

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self._connection = connection
        self._path = path

    def run(self, query: Query[T]) -> T:
        try:
            rows = _sqlite_schema.execute(self._connection, query.text, with_clock(query.params))
        except sqlite3.Error as error:
            raise translated(error, self._path, writes=query.writes) from error
        return query.parse(rows)

    def close(self) -> None:
        """Nothing: the transaction is somebody else's to end."""


class _Refusing(BlockingRepository):
    """A store that could not be had; an operation may have an answer to that."""

    def __init__(self, error: FreeTierError) -> None:
        self._error = error

    def run(self, query: Query[T]) -> NoReturn:
        raise self._error

    def close(self) -> None:
        """Nothing was opened."""


class _Unsure(BlockingRepository):
    """The store, after a write whose outcome nobody knows: nothing says that it was not written."""

    def __init__(self, store: BlockingRepository, before: FreeTierError) -> None:
        self._store = store
        self._before = before

    def run(self, query: Query[T]) -> T:
        try:
            return self._store.run(query)
        except (StoreUnavailable, StoreFull, StoreReadOnly) as error:
            raise OutcomeUnknown(f"{self._before.message}; tried again: {error.message}") from error

    def close(self) -> None:
        """Nothing: it belongs to somebody else."""


def _performed(store: BlockingRepository, operation: Operation[T]) -> T:
    return perform(operation.begin(), store)


def _emptied(calls: deque[Wanted]) -> list[Wanted]:
    taken = list(calls)
    calls.clear()
    return taken
