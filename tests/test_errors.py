"""What an error tells the caller to do."""

from __future__ import annotations

import copy
import pickle

import pytest

from freetier import (
    FreeTierError,
    InsufficientBalance,
    IntegrityError,
    InvalidInput,
    NotAuthenticated,
    OutcomeUnknown,
    StoreFull,
    StoreReadOnly,
    StoreUnavailable,
)

OF_THE_STORE = {
    StoreUnavailable: "nothing was written: try again",
    OutcomeUnknown: "ask again with the same key",
    StoreReadOnly: "nothing was written: an operator must look at it",
    StoreFull: "nothing was written: an operator must make room",
    IntegrityError: "stop writing, and look into it",
}


@pytest.mark.parametrize("kind", OF_THE_STORE)
def test_the_text_ends_with_the_advice(kind: type[FreeTierError]) -> None:
    """An error about the store says what happened, and then what the caller may do."""
    error = kind("the disk is gone")
    assert error.message == "the disk is gone"
    assert error.advice == OF_THE_STORE[kind]
    assert str(error) == f"the disk is gone; {error.advice}"


@pytest.mark.parametrize("kind", OF_THE_STORE)
def test_advice_is_given_once(kind: type[FreeTierError]) -> None:
    """An error that was copied, or came from another process, says the same, and no more."""
    error = kind("the disk is gone")
    assert str(copy.copy(error)) == str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (FreeTierError("no such job"), "no such job"),
        (
            InsufficientBalance("s-1", 5, 3),
            "session 's-1' has 3 sats free, and the request needs 5",
        ),
        (NotAuthenticated("the event is old"), "the event is old"),
        (
            InvalidInput("url", "postgres://me:secret@host/db", "a path"),
            "url: expected a path, got 'postgres://…@host/db'",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_others_say_it_themselves(error: FreeTierError, text: str) -> None:
    """An error whose message says what to do has no advice besides; no password is told."""
    assert str(error) == error.message == text
    assert error.advice == ""
