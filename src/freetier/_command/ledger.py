"""Which ledger a command works on: one that it may make, or one that it only reads."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from freetier._command.look import Look, at_postgres, at_sqlite
from freetier.errors import ConfigError, without_password
from freetier.opening import is_postgres, sqlite_path
from freetier.opening import open as open_ledger
from freetier.policy import FreeTierPolicy
from freetier.service import FreeTier


@contextmanager
def writable(
    arguments: Namespace,
    policy: FreeTierPolicy | None = None,
    clock: Callable[[], datetime] | None = None,
) -> Iterator[FreeTier]:
    """The ledger at `--db`, made and seeded if it is not there; by the environment's policy."""
    schema: str | None = arguments.schema
    with open_ledger(arguments.db, policy, schema=schema, clock=clock) as ledger:
        yield ledger


@contextmanager
def existing(arguments: Namespace) -> Iterator[FreeTier]:
    """The ledger at `--db`, to be written to. Raises `ConfigError` when it is not there."""
    with looking(arguments) as look:
        if not look.version():
            raise _nowhere(arguments.db)
    with writable(arguments) as ledger:
        yield ledger


@contextmanager
def read_only(arguments: Namespace) -> Iterator[FreeTier]:
    """The ledger at `--db` as it is: nothing is made, migrated, seeded or written.

    Raises `ConfigError` when it is not there, `SchemaError` when it would have to be migrated.
    """
    policy = FreeTierPolicy.from_env()
    with looking(arguments) as look:
        look.check()
        yield FreeTier(policy, look.repository())


@contextmanager
def looking(arguments: Namespace) -> Iterator[Look]:
    """A look at the database of `--db`. Raises `ConfigError` when it is not there."""
    url: str = arguments.db
    path = sqlite_path(url)
    if path is not None:
        if not Path(path).is_file():
            raise _nowhere(path)
        with at_sqlite(path) as look:
            yield look
    elif is_postgres(url):
        with at_postgres(url, arguments.schema) as look:
            yield look
    else:
        raise ConfigError(
            f"{without_password(url)}: nothing to look at; name a path or a postgresql URL"
        )


def _nowhere(place: str) -> ConfigError:
    place = without_password(place)
    return ConfigError(
        f"there is no ledger at {place!r}: name another with --db or FREETIER_DB, "
        "or make one with `freetier run` or `freetier donate`"
    )
