"""What the tests counted of what they are to reach: printed at the end of a run.

A test adds to a figure by the fixture `count_of`; the processes of a run add up. What takes longer
runs by itself: with `FREETIER_TEST_FIGURES=FILE` each run notes in the file what it counted, and
`python -m tests.figures FILE` adds them up, and fails unless each figure is reached.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
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
    "bad values refused": 10_000,
}


def often(every_day: int, in_all: int) -> list[Any]:
    """Numbers to parametrize a test by, of which only the first are run every day."""
    return [
        number if number < every_day else pytest.param(number, marks=pytest.mark.slow)
        for number in range(in_all)
    ]


def note(counted: Counter[str]) -> None:
    """Add a run's count to the file, if there is to be one."""
    if path := os.environ.get("FREETIER_TEST_FIGURES"):
        with Path(path).open("a", encoding="utf-8") as file:
            print(json.dumps(counted), file=file)


def lines(counted: Counter[str]) -> list[str]:
    """The table, of what was counted in this run."""
    return [
        f"{counted[name]:>8,}  {name} (to reach: {least:,})"
        for name, least in TO_REACH.items()
        if name in counted
    ]


def main(path: str) -> int:
    """Print what all runs counted together; 1 unless each figure is reached."""
    counted = Counter[str](dict.fromkeys(TO_REACH, 0))
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        counted.update(json.loads(line))
    print(*lines(counted), sep="\n")
    short = [name for name, least in TO_REACH.items() if counted[name] < least]
    print("not reached:", ", ".join(short)) if short else print("all figures are reached")
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
