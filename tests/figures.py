"""What the tests counted of what they are to reach: printed at the end of a run.

A test adds to a figure by the fixture `count_of`; the processes of a run add up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

import pytest

Count = Callable[[str, int], None]

TO_REACH: Final[Mapping[str, int]] = {
    "steps of the state machine on SQLite": 25_000,
    "steps of the state machine on Postgres": 5_000,
    "broken stores caught by the contract": 13,
    "SIGKILL points": 280,
    "power cuts": 280,
    "COMMIT replies lost": 200,
    "Postgres back-ends killed": 150,
    "Postgres restarts under load": 3,
    "tasks cancelled": 3_000,
    "races for a fresh budget on SQLite": 300,
    "races for a fresh budget on Postgres": 300,
    "boots at once on SQLite": 40,
    "boots at once on Postgres": 40,
    "bad values refused": 1_500,
}


def often(every_day: int, in_all: int) -> list[Any]:
    """Numbers to parametrize a test by, of which only the first are run every day."""
    return [
        number if number < every_day else pytest.param(number, marks=pytest.mark.slow)
        for number in range(in_all)
    ]


def lines(counted: Counter[str]) -> list[str]:
    """The table, of what was counted in this run."""
    return [
        f"{counted[name]:>8,}  {name} (to reach: {least:,})"
        for name, least in TO_REACH.items()
        if name in counted
    ]
