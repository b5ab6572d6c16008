"""The example service under load: no 5xx, a ledger that is proven, and books that agree."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from attrs import define
from sqlalchemy import create_engine, text

import freetier
from examples.paid_agent.store import DRIVERS
from freetier import Kind

from .crashing_agent import POLICY
from .paid_agent import ADA, BOB, CYD, PATIENCE_S, TEXT, Api

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
CALLERS = 50
DURATION_S = 60
ROOT = Path(__file__).parent.parent


@define
class Caller:
    """Asks for one thing after the other, and pays what is asked."""

    api: Api
    dice: random.Random
    statuses: Counter[tuple[str, int]]
    secret: bytes | None
    session: str | None = None

    async def ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """What it answers; whatever it is, its status is counted."""
        if method == "POST":
            response = await self.api.post(path, body, self.secret)
        else:
            response = await self.api.get(path, self.secret)
        self.statuses[
            path.split("?", maxsplit=1)[0].rsplit("/", maxsplit=1)[-1][:8], response.status_code
        ] += 1
        return dict(response.json()) if response.status_code < 300 and path != "/" else {}

    async def something(self) -> None:
        words = " ".join(self.dice.choices(TEXT.split(), k=self.dice.randrange(1, 40)))
        match self.dice.randrange(6):
            case 0:
                await self.ask(
                    "GET", self.dice.choice(["/api/pool", "/", "/api/estimate?request=a"])
                )
            case 1 | 2 | 3:
                job = await self.ask(
                    "POST", "/api/jobs", {"request": words, "refund_to": "caller@example.org"}
                )
                if job.get("invoice") and self.dice.random() < 0.8:
                    await self.pay(job)
            case 4 | 5:
                await self.use_session(words)

    async def use_session(self, words: str) -> None:
        if self.session is None:
            opened = await self.ask("POST", "/api/sessions", {"deposit_sats": 40})
            await self.pay(opened)
            self.session = opened["id"]
        elif self.dice.random() < 0.15:
            to = {"destination": "caller@example.org"}
            await self.ask("POST", f"/api/sessions/{self.session}/close", to)
            self.session = None
        else:
            await self.ask("POST", f"/api/sessions/{self.session}/request", {"request": words})

    async def pay(self, thing: dict[str, Any]) -> None:
        await self.ask("POST", f"/api/paper/{thing['invoice']['payment_hash']}/pay", {})


async def load(socket: str, url: str, statuses: Counter[tuple[str, int]]) -> None:
    transport = httpx.AsyncHTTPTransport(uds=socket, limits=httpx.Limits(max_connections=CALLERS))
    async with httpx.AsyncClient(
        transport=transport, base_url="http://127.0.0.1:8080", timeout=PATIENCE_S
    ) as client:
        api = Api(client, "http://127.0.0.1:8080")
        while True:
            try:
                await api.get("/api/pool")
                break
            except httpx.TransportError:
                await asyncio.sleep(0.05)
        end = time.monotonic() + DURATION_S

        async def call(number: int) -> None:
            secret = (None, None, ADA, BOB, CYD)[number % 5]
            caller = Caller(api, random.Random(number), statuses, secret)
            while time.monotonic() < end:
                await caller.something()

        await asyncio.gather(*map(call, range(CALLERS)))
        settled_by = time.monotonic() + DURATION_S
        while time.monotonic() < settled_by and unsettled(url):
            await asyncio.sleep(0.5)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_fifty_callers_for_a_minute(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """50 callers at once for a minute get no 5xx, and all books agree afterwards."""
    url = (
        f"sqlite:///{tmp_path / 'agent.db'}"
        if kind == "sqlite"
        else str(request.getfixturevalue("postgres_dsn"))
    )
    socket = str(tmp_path / "socket")
    statuses = Counter[tuple[str, int]]()
    order = {
        "db": url,
        "socket": socket,
        "crash_at": None,
        "eval_sats": 0,
        "broken": False,
        "poll_s": 5,
    }
    with subprocess.Popen(
        [sys.executable, "-m", "tests.crashing_agent"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as nursery:
        assert nursery.stdin is not None
        assert nursery.stdout is not None
        nursery.stdin.write(json.dumps(order) + "\n")
        nursery.stdin.flush()
        process = int(nursery.stdout.readline())
        try:
            asyncio.run(load(socket, url, statuses))
        finally:
            os.kill(process, signal.SIGKILL)
            nursery.stdin.close()
    assert {status for _, status in statuses} <= {200, 201, 202, 402, 409}, statuses
    assert sum(statuses.values()) > 5 * CALLERS, statuses
    check_books(url)


@contextmanager
def figures(url: str) -> Iterator[Callable[[str], int]]:
    """What a statement on the service's database says, as one number."""
    scheme, _, rest = url.partition(":")
    engine = create_engine(f"{DRIVERS[scheme][1].removesuffix('+aiosqlite')}:{rest}")
    with engine.connect() as connection:
        yield lambda sql: int(connection.execute(text(sql)).scalar() or 0)
    engine.dispose()


DUE = "refund_state = 'pending' AND refund_destination IS NOT NULL"
UNSETTLED = [
    f"SELECT COUNT(*) FROM paid_jobs WHERE state IN ('evaluating', 'executing') OR {DUE}",
    f"SELECT COUNT(*) FROM paid_sessions WHERE {DUE}",
    "SELECT COUNT(*) FROM paid_session_requests WHERE state = 'computing'",
    "SELECT COUNT(*) FROM paper_payments AS p WHERE paid AND NOT outgoing AND NOT EXISTS ("
    " SELECT 1 FROM paid_jobs WHERE work_invoice_id = p.id AND work_paid_at_us > 0) AND NOT EXISTS"
    " (SELECT 1 FROM paid_sessions WHERE invoice_id = p.id AND paid_at_us > 0)",
]


def unsettled(url: str) -> bool:
    """Whether the service still has something to do of what was asked and paid."""
    with figures(url) as figure:
        return any(figure(sql) for sql in UNSETTLED)


def check_books(url: str) -> None:
    """What the records say was paid is what the node has; what was kept is what was credited."""
    with freetier.open(url, POLICY) as ledger:
        report = ledger.verify()
        assert report.ok, report
        entries = list(ledger.journal())
    with figures(url) as figure:
        paid = figure("SELECT SUM(work_amount_sats) FROM paid_jobs WHERE work_paid_at_us > 0")
        deposits = figure("SELECT SUM(deposit_sats) FROM paid_sessions WHERE paid_at_us > 0")
        received = figure("SELECT SUM(sats) FROM paper_payments WHERE paid AND NOT outgoing")
        assert paid + deposits == received
        back = [
            figure(f"SELECT SUM(refund_sats) FROM {table} WHERE refund_state = 'paid'")
            for table in ("paid_jobs", "paid_sessions")
        ]
        assert sum(back) == figure("SELECT SUM(sats) FROM paper_payments WHERE paid AND outgoing")
        kept = figure(
            "SELECT SUM(work_amount_sats - refund_sats) FROM paid_jobs WHERE state = 'complete'"
        )
        charged = figure("SELECT SUM(charged_sats) FROM paid_session_requests")
        credited = sum(entry.paid_sats or 0 for entry in entries if entry.kind is Kind.CREDIT)
        assert credited == kept + charged
        absorbed = figure("SELECT SUM(absorbed_sats) FROM paid_jobs WHERE state = 'complete'")
        granted = figure("SELECT SUM(absorbed_sats) FROM paid_session_requests")
        drawn = (Kind.SETTLE, Kind.LATE, Kind.GRANT)
        assert absorbed + granted == -sum(e.balance_change for e in entries if e.kind in drawn)
        assert figure("SELECT COUNT(*) FROM paid_sessions WHERE balance_sats < 0") == 0
