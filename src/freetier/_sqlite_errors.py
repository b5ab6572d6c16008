"""SQLite's result codes, sorted by what the caller may do about them."""

from __future__ import annotations

import sqlite3

from freetier.errors import (
    ConfigError,
    FreeTierError,
    IntegrityError,
    OutcomeUnknown,
    SchemaError,
    StoreFull,
    StoreReadOnly,
    StoreUnavailable,
)

_BY_CODE: dict[int, type[FreeTierError]] = {
    sqlite3.SQLITE_BUSY: StoreUnavailable,
    sqlite3.SQLITE_LOCKED: StoreUnavailable,
    sqlite3.SQLITE_INTERRUPT: StoreUnavailable,
    sqlite3.SQLITE_NOMEM: StoreUnavailable,
    sqlite3.SQLITE_CANTOPEN: StoreUnavailable,
    sqlite3.SQLITE_READONLY: StoreReadOnly,
    sqlite3.SQLITE_PERM: StoreReadOnly,
    sqlite3.SQLITE_FULL: StoreFull,
    sqlite3.SQLITE_CORRUPT: IntegrityError,
    sqlite3.SQLITE_CONSTRAINT: IntegrityError,
    sqlite3.SQLITE_NOTADB: ConfigError,
    sqlite3.SQLITE_MISUSE: ConfigError,
    sqlite3.SQLITE_ERROR: SchemaError,
    sqlite3.SQLITE_SCHEMA: SchemaError,
}


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another connection holds what this statement needs: worth another try."""
    return _primary(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def translated(error: sqlite3.Error, where: str, *, writes: bool) -> FreeTierError:
    """The error of ours that says what to do about `error`."""
    code = _primary(error)
    if code == sqlite3.SQLITE_IOERR:
        # A failed flush may or may not have reached the disk.
        kind: type[FreeTierError] = OutcomeUnknown if writes else StoreUnavailable
    elif str(error).startswith("Could not decode"):
        kind = IntegrityError  # text that nobody could have written through the library
    elif code is None:
        kind = ConfigError  # the sqlite3 module's own complaint: closed, or another thread's
    else:
        kind = _BY_CODE.get(code, StoreUnavailable)
    name = getattr(error, "sqlite_errorname", None)
    return kind(f"{where}: {error}" + (f" ({name})" if name else ""))


def _primary(error: sqlite3.Error) -> int | None:
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
