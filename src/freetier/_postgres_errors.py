"""Postgres' SQLSTATEs, sorted by what the caller may do about them."""

from __future__ import annotations

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

# By code, or by its first two characters, the class.
_BY_STATE: dict[str, type[FreeTierError]] = {
    "22": IntegrityError,  # a figure beyond its type: no statement of ours has one
    "22021": ConfigError,  # text that the connection's encoding cannot carry
    "22P05": ConfigError,
    "23": IntegrityError,
    "25": StoreUnavailable,  # the host's transaction failed before: it must roll back
    "25006": StoreReadOnly,
    "28": ConfigError,
    "3D": ConfigError,
    "3F": SchemaError,
    "40": StoreUnavailable,  # a deadlock, or a serialization failure: rolled back
    "42": SchemaError,
    "42501": ConfigError,  # the role may not
    "42704": ConfigError,  # a setting that the server does not know
    "53": StoreUnavailable,
    "53100": StoreFull,
    "55": StoreUnavailable,  # a lock that was not to be had in time
    "57014": StoreUnavailable,  # cancelled before it was done
    "P0": IntegrityError,  # the schema's own word
    "XX001": IntegrityError,  # a page or an index that is broken
    "XX002": IntegrityError,
}
# What ends the connection, perhaps between a commit and its answer.
_BREAKS = ("08", "57P")


def words(error: Exception) -> str:
    """What an error says, if it says anything."""
    return str(error) or ("no answer in time" if isinstance(error, TimeoutError) else "")


def translated(state: str | None, message: str, *, writes: bool) -> FreeTierError:
    """The error of ours for a statement that failed with SQLSTATE `state`.

    A server that answers with an error has written nothing. None, or a state that ends the
    connection, says nothing of what became of a write.
    """
    if state is not None and not state.startswith(_BREAKS):
        kind = _BY_STATE.get(state) or _BY_STATE.get(state[:2], StoreUnavailable)
    else:
        kind = OutcomeUnknown if writes else StoreUnavailable
    text = message.strip().splitlines()[0] if message.strip() else "the connection broke"
    return kind(f"Postgres: {text}" + (f" ({state})" if state else ""))
