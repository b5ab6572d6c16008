"""How long one call keeps trying, with what pauses, and what it says in the end. No I/O."""

from __future__ import annotations

import random
import time
from typing import Final

from freetier.errors import FreeTierError, InvalidInput, OutcomeUnknown, StoreUnavailable

_FIRST_PAUSE_S = 0.000_25
LOCKED_PAUSE_S: Final = 0.010
"""The longest pause while others hold a lock: each of them has it for a few milliseconds."""
AWAY_PAUSE_S: Final = 0.100
"""The longest pause while a server may be away: to ask it more often would only burden it."""
_LONGEST_TIMEOUT_S = 3600


def check_timeout(timeout_s: float, least_s: float = 0) -> float:
    """`timeout_s`, if it is seconds from `least_s` to an hour; else raises `InvalidInput`."""
    if type(timeout_s) not in (int, float) or not least_s <= timeout_s <= _LONGEST_TIMEOUT_S:
        expected = f"seconds from {least_s} to {_LONGEST_TIMEOUT_S}"
        raise InvalidInput("timeout_s", timeout_s, expected)
    return timeout_s


class Patience:
    """One call's tries: growing random pauses, to a deadline.

    A write whose outcome is unknown may be tried again, because the schema refuses a second entry
    under its key; but once it is unknown, no later failure can say that nothing was written.
    """

    def __init__(
        self,
        timeout_s: float,
        longest_pause_s: float = LOCKED_PAUSE_S,
        *,
        since: float | None = None,
    ) -> None:
        self._deadline = (time.monotonic() if since is None else since) + timeout_s
        self._longest = _FIRST_PAUSE_S
        self._at_most = longest_pause_s
        self._unknown: OutcomeUnknown | None = None

    def left_s(self) -> float:
        """The seconds to the deadline; never below 0."""
        return max(0.0, self._deadline - time.monotonic())

    def pause(self, error: FreeTierError) -> float:
        """The seconds to wait before the next try; raises `error` when there is none."""
        if isinstance(error, OutcomeUnknown):
            self._unknown = error
        pause = random.uniform(0, self._longest)  # noqa: S311 - jitter, not a secret
        passes = isinstance(error, StoreUnavailable | OutcomeUnknown)
        if not passes or pause >= self.left_s():
            raise self.last_word(error)
        self._longest = min(self._longest * 2, self._at_most)
        return pause

    def last_word(self, error: FreeTierError) -> FreeTierError:
        """What to raise for `error`, after all that went before."""
        if self._unknown is None or error is self._unknown:
            return error
        return OutcomeUnknown(f"{self._unknown.message}; tried again: {error.message}")
