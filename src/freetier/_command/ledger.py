"""Which ledger a command works on: one that it may make, or one that it only reads."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from freetier._sqlite_errors import translated
from freetier.errors import ConfigError, FreeTierError
from freetier.opening import open as open_ledger
from freetier.opening import sqlite_path
from freetier.policy import FreeTierPolicy
from freetier.service import FreeTier
from freetier.sqlite import SQLiteRepository


@contextmanager
def writable(url: str) -> Iterator[FreeTier]:
    """The ledger at `url`, made and seeded if it is not there, under the environment's policy."""
    with open_ledger(url, FreeTierPolicy.from_env()) as ledger:
        yield ledger


@contextmanager
def read_only(url: str) -> Iterator[FreeTier]:
    """The ledger at `url` as it is: nothing is made, migrated, seeded or written.

    Raises `ConfigError` when it is not there, `SchemaError` when it would have to be migrated.
    """
    policy = FreeTierPolicy.from_env()
    path = sqlite_path(url)
    if path is None:
        with open_ledger(url, policy) as ledger:
            yield ledger
    else:
        with reading(path) as connection:
            yield FreeTier(policy, _repository(connection, path))


@contextmanager
def reading(path: str) -> Iterator[sqlite3.Connection]:
    """A connection that cannot write, to an SQLite file that is there. Raises `ConfigError`."""
    must_exist(path)
    address = Path(path).absolute().as_uri() + "?mode=ro"
    try:
        with closing(sqlite3.connect(address, uri=True, isolation_level=None)) as connection:
            yield connection
    except sqlite3.Error as error:
        raise translated(error, path, writes=False) from error


def _repository(connection: sqlite3.Connection, path: str) -> SQLiteRepository:
    try:
        return SQLiteRepository(connection)
    except FreeTierError as error:
        error.add_note(path)  # which the adapter does not know
        raise


def must_exist(url: str) -> None:
    """Raise `ConfigError` if `url` is an SQLite file's and the file is not there."""
    path = sqlite_path(url)
    if path is not None and not Path(path).is_file():
        raise ConfigError(
            f"there is no ledger at {path!r}: name another with --db or FREETIER_DB, "
            "or make one with `freetier run` or `freetier donate`"
        )
