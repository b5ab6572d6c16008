"""`freetier demo`: a day in the life of a small pool, on one screen.

Everything is real (an SQLite ledger in a temporary folder, the default budgets) but the clock, so
that the day is the same every time. The environment has no say.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import wrap

from attrs import define, frozen

from freetier._command.output import Column, Output, table_heading, table_line
from freetier._command.views import balance_line, report_line
from freetier.entries import Kind
from freetier.opening import open as open_ledger
from freetier.policy import FreeTierPolicy
from freetier.service import FreeTier
from freetier.values import Decision, Request, Serve

POLICY = FreeTierPolicy(seed_sats=400)
WIDTH = 100
MIDNIGHT = datetime(2025, 6, 2, tzinfo=UTC)

TOLD_COLUMNS = (
    Column("time", 5),
    Column("what happens", 31),
    Column("price", 5, right=True),
    Column("pool", 4, right=True),
    Column("caller", 6, right=True),
    Column("answer", 7),
    Column("in pool", 7, right=True),
    Column("why", 21),
)


@frozen
class Told:
    """One line of the day; `in_pool_sats` is what is available after it, the rest may be absent."""

    at: datetime
    what: str
    in_pool_sats: int
    price_sats: int | None = None
    absorb_sats: int | None = None
    charge_sats: int | None = None
    serve: Serve | None = None
    why: str = ""


def demo(_: Namespace, out: Output) -> int:
    """Tell the day; 1 if its ledger does not verify."""
    with TemporaryDirectory(prefix="freetier-") as folder:
        day = Day(MIDNIGHT + timedelta(hours=8))
        with open_ledger(Path(folder) / "demo.db", POLICY, clock=lambda: day.at) as ledger:
            budgets = ", ".join(f"{tier} {sats}" for tier, sats in POLICY.budgets.items())
            out.text(["A day of a community's pool. Who pays, the pool or the caller? In sats."])
            out.text([f"Each identity may draw, each UTC day, by its tier: {budgets}.", ""])
            out.text(table_heading(TOLD_COLUMNS))
            out.text(told_line(told) for told in story(Teller(ledger, day)))
            pool, report = ledger.pool_status(), ledger.verify()
    out.text(["", *wrap(f"The pool: {balance_line(pool)}", WIDTH, subsequent_indent="  ")])
    out.text([f"The books: {report_line(report)}"])
    return 0 if report.ok else 1


def story(tell: Teller) -> Iterator[Told]:
    """What happens, in order. Every tier, every answer, and what may go otherwise than planned."""
    yield tell.now("08:00", "the pool opens with its seed")
    yield tell.asks("08:10", Request("job-1", None, "new", 40))
    yield tell.pays("08:11", "job-1", 40)
    yield tell.asks("08:30", Request("job-2", "nora", "new", 25))
    yield tell.pays("08:31", "job-2", 25)
    yield tell.asks("09:00", Request("job-3", "emil", "established", 30))
    yield tell.asks(
        "09:01", Request("job-3", "emil", "established", 30), why="a retry: same answer"
    )
    yield tell.ends("09:05", "job-3", actual_sats=22)
    yield tell.asks("10:00", Request("job-4", "emil", "established", 60))
    yield tell.now("10:15", "emil never pays: it expires", why="allowance stays spent")
    yield tell.asks("10:20", Request("job-5", "emil", "established", 10))
    yield tell.asks("12:00", Request("job-6", "tara", "trusted", 150))
    yield tell.ends("12:04", "job-6", actual_sats=150)
    yield tell.asks("15:00", Request("job-7", "elsa", "elite", 600))
    yield tell.ends("15:06", "job-7", actual_sats=500)
    yield tell.pays("15:07", "job-7", 266)
    yield tell.gives("18:00", "a sponsor", 100)
    yield tell.asks("24:05", Request("job-8", "emil", "established", 30), why="a new day")
    yield tell.ends("24:09", "job-8", actual_sats=30)


@define
class Day:
    """The time that it is."""

    at: datetime


@frozen
class Teller:
    """Makes each thing happen on the ledger, at a time of day as `hh:mm`, and tells it."""

    ledger: FreeTier
    day: Day

    def now(self, at: str, what: str, why: str = "") -> Told:
        """The pool at that time."""
        self._wait(at)
        return Told(self.day.at, what, self._in_pool(), why=why)

    def asks(self, at: str, request: Request, why: str | None = None) -> Told:
        """A request: decided, and held."""
        self._wait(at)
        decision = self.ledger.reserve(request).decision
        return Told(
            self.day.at,
            f"{_who(request)} asks",
            self._in_pool(),
            decision.price_sats,
            decision.absorb_sats,
            decision.charge_sats,
            decision.serve,
            reason(decision) if why is None else why,
        )

    def ends(self, at: str, request_id: str, *, actual_sats: int) -> Told:
        """The work is done, at its real cost."""
        self._wait(at)
        done = self.ledger.settle(request_id, actual_sats)
        if done.refund_sats:
            why = f"{done.refund_sats} refunded"
        elif done.returned_sats:
            why = f"{done.returned_sats} back to the pool"
        else:
            why = ""
        return Told(
            self.day.at,
            f"  {self.ledger.grant(request_id).identity}'s work cost {actual_sats}",
            self._in_pool(),
            actual_sats,
            done.absorbed_sats,
            done.charged_sats,
            why=why,
        )

    def pays(self, at: str, request_id: str, paid_sats: int) -> Told:
        """An invoice is paid: a share of it goes into the pool, what is below a sat is carried."""
        self._wait(at)
        credited = self.ledger.credit(request_id, paid_sats).credited_sats
        entry = self.ledger.repository.find(Kind.CREDIT, request_id)
        carried = entry.credit_carry if entry else 0  # in 10,000ths of a sat
        why = f"0.{carried:04}".rstrip("0") + " carried" if carried else ""
        what = f"  {paid_sats} are paid: {credited} to the pool"
        return Told(self.day.at, what, self._in_pool(), why=why)

    def gives(self, at: str, sponsor: str, sats: int) -> Told:
        """A donation."""
        self._wait(at)
        self.ledger.donate(f"donation-{at}", sats, sponsor=sponsor)
        return Told(self.day.at, f"{sponsor} gives {sats}", self._in_pool())

    def _wait(self, at: str) -> None:
        hours, minutes = at.split(":")
        self.day.at = MIDNIGHT + timedelta(hours=int(hours), minutes=int(minutes))

    def _in_pool(self) -> int:
        return self.ledger.pool_status().available_sats


def told_line(told: Told) -> str:
    """A line of the day's table."""
    return table_line(
        TOLD_COLUMNS,
        (
            f"{told.at:%H:%M}",
            told.what,
            told.price_sats,
            told.absorb_sats,
            told.charge_sats,
            told.serve,
            told.in_pool_sats,
            told.why,
        ),
    )


def reason(decision: Decision) -> str:
    """The limit that bound a decision, and the time of day until which it does."""
    if decision.bound_by is None:
        return ""
    until = "" if decision.resets_at is None else f" until {decision.resets_at:%H:%M}"
    return f"{decision.bound_by}{until}"


def _who(request: Request) -> str:
    return (
        "somebody unknown" if request.identity is None else f"{request.identity} ({request.tier})"
    )
