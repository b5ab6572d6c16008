"""What holds for the library's own connections to Postgres, whatever the driver."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from freetier._patience import check_timeout
from freetier.errors import ConfigError, InvalidInput, OutcomeUnknown

DEADLINE_S: Final = 5.0
"""How long one call waits for a connection, for locks, and for a server that restarts."""
GRACE_S: Final = 1.0
"""How much longer it then waits for the answer of a server that may be gone."""
OPENING_S: Final = 10.0
"""How long an open at least may take to make the schema, once it is its turn."""
CONNECTIONS: Final = 10
"""The most connections that one repository of the library's own opens."""
_MOST_CONNECTIONS = 1000
_LEAST_TIMEOUT_S = 0.001

_WAIT_FOR_STANDBY = "SyncRepWaitForLSN"
_BAD_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")
_SCHEMES = ("postgresql://", "postgres://")


def checked_url(database: object, expected: str) -> str:
    """`database`, if it is a Postgres URL; else raises, without the password.

    `InvalidInput`; `ConfigError`, for a `%` that escapes nothing: drivers differ over it.
    """
    if type(database) is str and database.startswith(_SCHEMES) and "\0" not in database:
        if _BAD_ESCAPE.search(database):
            raise unreadable()
        return database
    shown = database.partition("://")[0] if isinstance(database, str) else database
    raise InvalidInput("database", shown, f"a postgresql://… URL or {expected}")


def unreadable() -> ConfigError:
    """The error for a URL that cannot be read; without its cause, which may show the password."""
    return ConfigError(
        "the URL of the database cannot be read: special characters are written as %XX, "
        "and its parameters must be the driver's"
    )


def checked_timeout(timeout_s: float) -> float:
    """`timeout_s`, if it is from a millisecond to an hour; else raises `InvalidInput`."""
    return check_timeout(timeout_s, _LEAST_TIMEOUT_S)


def checked_count(connections: object) -> int:
    """`connections`, if it is from 1 to 1000; else raises `InvalidInput`."""
    if type(connections) is int and 1 <= connections <= _MOST_CONNECTIONS:
        return connections
    raise InvalidInput("connections", connections, f"a number from 1 to {_MOST_CONNECTIONS}")


def session(timeout_s: float) -> str:
    """The statement that readies a session of our own.

    No call waits for ever; the guard reads fresh after its lock (READ COMMITTED); what is
    acknowledged is on disk, even where the server's default would not wait for that; and a plan
    that was made while a table was small does not read the whole of it when it has grown.
    """
    timeout_ms = int(timeout_s * 1000)
    return (
        f"SELECT set_config('lock_timeout', '{timeout_ms}', false),"
        f" set_config('statement_timeout', '{timeout_ms}', false),"
        " set_config('default_transaction_isolation', 'read committed', false),"
        " set_config('enable_seqscan', 'off', false),"
        " set_config('synchronous_commit', CASE current_setting('synchronous_commit')"
        " WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, false)"
    )


def check_replicated(sources: Iterable[str | None]) -> None:
    """Raise `OutcomeUnknown` if the server gave up its wait for a synchronous standby.

    Somebody cancelled that wait. The server then answers as if all were well, and only a warning
    tells that the standby may not have what was committed. `sources` are the server's functions
    that warned. A second try waits for the standby again, even if it writes no entry.
    """
    if _WAIT_FOR_STANDBY in sources:
        raise OutcomeUnknown(
            "Postgres: the wait for the synchronous standby was cancelled; "
            "the standby may not have what was written"
        )
