"""What can go wrong, sorted by what the caller may do about it.

Never retry: `InvalidInput`, `ConfigError`, `SchemaError`, `Conflict`, `IllegalTransition`,
`UnknownRequest`. Pay first, then retry: `InsufficientBalance`. Retry: `StoreUnavailable` (nothing
was written), `StalePrice`. Retry with the same key: `OutcomeUnknown`.
Call the operator: `StoreReadOnly`, `StoreFull`. Stop writing: `IntegrityError`.
Answer 401: `NotAuthenticated`.
"""

from __future__ import annotations

import re
from typing import ClassVar

_SHOWN = 60
_LOOKED_AT = 4096  # a value may be of any length
_WHO = re.compile(r"(:/+)\S*@")
# All that follows a quote: where it ends is a matter of what escapes what.
_PASSWORD = re.compile(r"(password\s*=\s*)(?:\\?'.*|[^\s&'\"]*)", re.IGNORECASE | re.DOTALL)


class FreeTierError(Exception):
    """The root of every error that this library raises on purpose.

    `advice` is what the caller may do about it, "" where `message` says; `str` gives both.
    """

    advice: ClassVar[str] = ""

    @property
    def message(self) -> str:
        """What happened, without the advice."""
        return super().__str__()

    def __str__(self) -> str:
        return f"{self.message}; {self.advice}" if self.advice else self.message


class InvalidInput(FreeTierError, ValueError):
    """An argument is not what the function takes; nothing was read or written."""

    def __init__(self, argument: str, value: object, expected: str) -> None:
        super().__init__(argument, value, expected)
        self.argument = argument
        self.value = value
        self.expected = expected

    @property
    def message(self) -> str:
        """See `FreeTierError`."""
        return f"{self.argument}: expected {self.expected}, got {shown(self.value)}"


class ConfigError(FreeTierError):
    """The settings, or the way the ledger was set up, cannot work; every problem is listed."""


class SchemaError(FreeTierError):
    """The database's schema is older, newer or other than the one this code was written for."""


class Conflict(FreeTierError):
    """The key was used before, for something else; the first answer stands."""


class IllegalTransition(Conflict):
    """What happened does not fit the state that the job or session is in; it stays as it was."""


class InsufficientBalance(FreeTierError):
    """A session's balance does not reach for what the request would cost; nothing was done."""

    def __init__(self, session_id: str, needed_sats: int, free_sats: int) -> None:
        super().__init__(session_id, needed_sats, free_sats)
        self.session_id = session_id
        self.needed_sats = needed_sats
        self.free_sats = free_sats

    @property
    def message(self) -> str:
        """See `FreeTierError`."""
        return (
            f"session {self.session_id!r} has {self.free_sats} sats free, "
            f"and the request needs {self.needed_sats}"
        )


class StalePrice(FreeTierError):
    """The bitcoin price is too old to sell by. Get a new one, then try again."""


class UnknownRequest(FreeTierError):
    """No grant was ever written for this request id."""


class StoreUnavailable(FreeTierError):
    """The store did not answer in time. Nothing was written: try again."""

    advice = "nothing was written: try again"


class OutcomeUnknown(FreeTierError):
    """The store broke off while it was writing. Ask again with the same key to learn the truth."""

    advice = "ask again with the same key"


class StoreReadOnly(FreeTierError):
    """The store can be read but not written; an operator must look at it."""

    advice = "nothing was written: an operator must look at it"


class StoreFull(FreeTierError):
    """The store has no room left; an operator must look at it. Nothing was written."""

    advice = "nothing was written: an operator must make room"


class IntegrityError(FreeTierError):
    """The books do not add up. Stop writing and run `verify`; no balance is ever clamped."""

    advice = "stop writing, and look into it"


class NotAuthenticated(FreeTierError):
    """A request does not prove who sent it. `reason` says which check failed, and no secret."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def without_password(text: str) -> str:
    """`text` as it may be shown: of a URL, who it is for and the password are left out.

    So is the password of libpq's own form, `host=… password=…`, and of a URL's parameters.
    """
    return _PASSWORD.sub(r"\1…", _WHO.sub(r"\1…@", text))


def shown(value: object) -> str:
    """`value` as an error message shows it: its repr, cut to 60 characters, and its type if odd.

    Of a URL, who it is for and the password are left out.
    """
    try:
        text = repr(value[:_LOOKED_AT] if isinstance(value, str | bytes) else value)
    except Exception:
        text = "a value that cannot be shown"
    text = without_password(text)
    if len(text) > _SHOWN:
        text = text[:_SHOWN] + "…"
    return text if value is None or type(value) is str else f"{text} ({type(value).__name__})"
