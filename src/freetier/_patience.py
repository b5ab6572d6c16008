"""How long one call keeps trying, with what pauses, and what it says in the end. No I/O."""

from __future__ import annotations

import random
import time

from freetier.errors import FreeTierError, InvalidInput, OutcomeUnknown, StoreUnavailable

_FIRST_PAUSE_S = 0.000_25
_LONGEST_PAUSE_S = 0.010
_LONGEST_TIMEOUT_S = 3600


def check_timeout(timeout_s: float) -> float:
    """`timeout_s`, if it is seconds from 0 to an hour; else raises `InvalidInput`."""
    if type(timeout_s) not in (int, float) or not 0 <= timeout_s <= _LONGEST_TIMEOUT_S:
        raise InvalidInput("timeout_s", timeout_s, f"seconds from 0 to {_LONGEST_TIMEOUT_S}")
    return timeout_s


class Patience:
    """One call's tries: growing random pauses, to a deadline.

    A write whose outcome is unknown may be tried again, because the schema refuses a second entry
    under its key; but once it is unknown, no later failure can say that nothing was written.
    """

    def __init__(self, timeout_s: float) -> None:
        self._deadline = time.monotonic() + timeout_s
        self._longest = _FIRST_PAUSE_S
        self._unknown: OutcomeUnknown | None = None

    def left_s(self) -> float:
        """The seconds to the deadline; never below 0."""
        return max(0.0, self._deadline - time.monotonic())

    def pause(self, error: FreeTierError) -> float:
        """The seconds to wait before the next try; raises `error` when there is none."""
        if isinstance(error, OutcomeUnknown):
            self._unknown = error
        passes = isinstance(error, StoreUnavailable | OutcomeUnknown)
        if not passes or not self.left_s():
            raise self.last_word(error)
        pause = random.uniform(0, self._longest)  # noqa: S311 - jitter, not a secret
        self._longest = min(self._longest * 2, _LONGEST_PAUSE_S)
        return min(pause, self.left_s())

    def last_word(self, error: FreeTierError) -> FreeTierError:
        """What to raise for `error`, after all that went before."""
        if self._unknown is None or error is self._unknown:
            return error
        return OutcomeUnknown(f"{self._unknown}; tried again: {error}")
