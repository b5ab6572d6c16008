"""How a figure comes about: subjects measured in turn, round by round, and medians of ratios.

A machine slows down and speeds up while one measures. So what is compared is measured within one
round, and the ratio is taken within the round: what slowed one subject slowed the other. The
median of the rounds' ratios is the figure. Absolute times are shown beside it, not judged.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from attrs import define, field, frozen

Call = Callable[[], object]
Sample = Callable[[], float]
"""Measures once; seconds a call."""
TIMES = "\u00d7"


class LeftOut(Exception):  # noqa: N818 - it is no error: it says why a subject is not measured
    """A subject cannot be measured here; the message says why."""


class Outcome(StrEnum):
    """What became of a line."""

    OK = "ok"
    MISSED = "missed"
    NOT_MEASURED = "not measured"
    SHOWN = "shown"
    """Measured, with nothing to reach."""


@frozen
class Bound:
    """What a figure is to reach."""

    value: float
    is_most: bool

    def holds(self, value: float) -> bool:
        """Whether the figure reached it."""
        return value <= self.value if self.is_most else value >= self.value

    def __str__(self) -> str:
        return f"{'≤' if self.is_most else '≥'} {self.value:g}"


def at_most(value: float) -> Bound:
    """The figure may not be above it."""
    return Bound(value, is_most=True)


def at_least(value: float) -> Bound:
    """The figure may not be below it."""
    return Bound(value, is_most=False)


@frozen
class Line:
    """One figure of the table: its values, one a round; none if it was not measured.

    `note` says what the absolute times were, or why nothing was measured.
    """

    name: str
    values: Sequence[float]
    bound: Bound | None = None
    unit: str = TIMES
    note: str = ""

    @property
    def value(self) -> float | None:
        """The median of the rounds."""
        return statistics.median(self.values) if self.values else None

    @property
    def spread(self) -> tuple[float, float] | None:
        """Between which two values the middle half of the rounds lies; None for fewer than two."""
        if len(self.values) < 2:
            return None
        low, _, high = statistics.quantiles(self.values, n=4, method="inclusive")
        return low, high

    @property
    def outcome(self) -> Outcome:
        """Judged by the median. What was not measured reached nothing, and missed nothing."""
        if self.value is None:
            return Outcome.NOT_MEASURED
        if self.bound is None:
            return Outcome.SHOWN
        return Outcome.OK if self.bound.holds(self.value) else Outcome.MISSED

    def as_json(self) -> dict[str, Any]:
        """For machines; the bound in words and as a number."""
        return {
            "name": self.name,
            "outcome": str(self.outcome),
            "value": self.value,
            "unit": self.unit,
            "to_reach": None if self.bound is None else str(self.bound),
            "bound": None if self.bound is None else self.bound.value,
            "rounds": list(self.values),
            "note": self.note,
        }


def left_out(name: str, why: str, bound: Bound | None = None) -> Line:
    """The line of a subject that is not measured."""
    return Line(name, (), bound, note=why)


def seconds(call: Call, calls: int) -> float:
    """Seconds a call, over so many in a row."""
    started = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - started) / calls


def timed(call: Call, calls: int) -> Sample:
    """Measures the same call, each round."""
    return lambda: seconds(call, calls)


def timed_anew(prepare: Callable[[], Call], calls: int) -> Sample:
    """Measures a call that `prepare` readies anew, outside the time, each round."""
    return lambda: seconds(prepare(), calls)


@frozen
class Rounds:
    """What each subject took in each round; and why some are left out."""

    seconds: Sequence[Mapping[str, float]]
    absent: Mapping[str, str] = field(factory=dict)

    def us(self, name: str) -> float:
        """The median of a subject's own times, in µs a call."""
        return statistics.median(each[name] for each in self.seconds) * 1e6

    def compared(
        self, name: str, of: str, to: str, bound: Bound | None = None, *, note: str = ""
    ) -> Line:
        """The line for how many times `to`'s time `of` takes."""
        for subject in (of, to):
            if subject in self.absent:
                return left_out(name, self.absent[subject], bound)
        times = f"{shown_us(self.us(of))} / {shown_us(self.us(to))} µs"
        ratios = [each[of] / each[to] for each in self.seconds]
        return Line(name, ratios, bound, note=f"{times}; {note}" if note else times)


def shown_us(us: float) -> str:
    """With three figures, or all that are before the point."""
    return f"{us:,.0f}" if us >= 100 else f"{us:.3g}"


@define
class Subjects:
    """What is measured in turn, by name."""

    samples: dict[str, Sample] = field(factory=dict)
    absent: dict[str, str] = field(factory=dict)

    def add(self, name: str, sample: Sample) -> None:
        """One more subject."""
        self.samples[name] = sample

    def add_if_there(self, name: str, make: Callable[[], Sample]) -> None:
        """One more subject, unless `make` says that it must be left out."""
        try:
            self.samples[name] = make()
        except LeftOut as why:
            self.absent[name] = str(why)

    def measured(self, rounds: int, *, warm: int = 1) -> Rounds:
        """Every subject once a round; the first rounds warm caches and plans, and do not count.

        Each round begins with another subject, so that none always follows the same one.
        """
        names = list(self.samples)
        every = []
        for number in range(warm + rounds):
            gc.collect()  # what one round left is not cleared away in another's time
            turn = number % len(names)
            every.append({name: self.samples[name]() for name in names[turn:] + names[:turn]})
        return Rounds(every[warm:], dict(self.absent))
