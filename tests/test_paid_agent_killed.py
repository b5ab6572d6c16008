"""The example service, killed between any two steps and started again: every job ends right."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from attrs import define, field
from sqlalchemy import create_engine, text

import freetier
from examples.paid_agent.store import DRIVERS
from freetier import Kind

from .crashing_agent import POLICY
from .paid_agent import ADA, BOB, PATIENCE_S, TEXT, Api
from .postgres_server import Server, database_name

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def nursery() -> Iterator[subprocess.Popen[str]]:
    """The interpreter that the services are forked from."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.crashing_agent"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@define
class Agent:
    """The service in a process, started again when a request finds it dead."""

    nursery: subprocess.Popen[str]
    order: dict[str, Any]
    process: int = 0
    killed: bool = False
    _client: httpx.AsyncClient = field(init=False)

    async def __aenter__(self) -> Agent:
        transport = httpx.AsyncHTTPTransport(uds=self.order["socket"])
        self._client = httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1:8080", timeout=PATIENCE_S
        )
        self._start(self.order)
        return self

    async def __aexit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.process, signal.SIGKILL)
        await self._client.aclose()

    def _start(self, order: dict[str, Any]) -> None:
        Path(order["socket"]).unlink(missing_ok=True)
        assert self.nursery.stdin is not None
        assert self.nursery.stdout is not None
        self.nursery.stdin.write(json.dumps(order) + "\n")
        self.nursery.stdin.flush()
        self.process = int(self.nursery.stdout.readline())

    async def ask(
        self, method: str, path: str, body: object = None, secret: bytes | None = None
    ) -> dict[str, Any]:
        """What it answers in the end, asked again each time that it died."""
        api = Api(self._client, "http://127.0.0.1:8080")
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                if method == "POST":
                    response = await api.post(path, body, secret)
                else:
                    response = await api.get(path, secret)
            except httpx.TransportError:
                await asyncio.sleep(0.02)
                if not self.alive():
                    self.killed = True
                    self._start({**self.order, "crash_at": None})
                continue
            assert response.status_code < 300, response.text
            answer: dict[str, Any] = response.json()
            return answer
        raise AssertionError(f"no answer to {method} {path}")

    def alive(self) -> bool:
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return False
        return True

    async def until(
        self, path: str, member: str, *values: object, secret: bytes | None = None
    ) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_S
        answer: dict[str, Any] = {}
        while time.monotonic() < deadline:
            answer = await self.ask("GET", path, secret=secret)
            if answer[member] in values:
                return answer
            await asyncio.sleep(0.02)
        raise AssertionError(f"{path} is not {values}: {answer}")


async def job_flow(agent: Agent, secret: bytes | None) -> dict[str, Any]:
    """A caller who pays what is asked, and wants back what is too much. Every request is safe."""
    body = {
        "request": TEXT,
        "id": "the-job-that-nobody-guesses-1",
        "refund_to": "caller@example.org",
    }
    await agent.ask("POST", "/api/jobs", body, secret)
    path = "/api/jobs/the-job-that-nobody-guesses-1"
    while True:
        job = await agent.until(path, "next_step", "payment", None, "destination", secret=secret)
        if job["next_step"] != "payment":
            return job
        payment_hash = job["invoice"]["payment_hash"]
        await agent.ask("POST", f"/api/paper/{payment_hash}/pay", {})
        await asyncio.sleep(0.02)


async def session_flow(agent: Agent, secret: bytes | None) -> dict[str, Any]:
    opened = await agent.ask(
        "POST",
        "/api/sessions",
        {"deposit_sats": 50, "id": "the-session-that-nobody-guesses-1"},
        secret,
    )
    path = f"/api/sessions/{opened['id']}"
    opened = await agent.until(path, "state", "awaiting_payment", "active", secret=secret)
    while not opened["invoice"]:
        opened = await agent.ask("GET", path, secret=secret)
    await agent.ask("POST", f"/api/paper/{opened['invoice']['payment_hash']}/pay", {})
    await agent.until(path, "state", "active", secret=secret)
    request = {"request": TEXT, "id": "the-request-1"}
    done = await agent.ask("POST", f"{path}/request", request, secret)
    assert done["state"] == "complete"
    await agent.ask("POST", f"{path}/close", {"destination": "caller@example.org"}, secret)
    while True:
        closed = await agent.until(path, "state", "closed", secret=secret)
        if closed["refund"]["state"] == "paid":
            return {**done, "refund": closed["refund"], "state": "complete"}


FLOWS = {
    "free": (job_flow, ADA, 0, False),
    "partial": (job_flow, BOB, 0, False),
    "gate, evaluation paid": (job_flow, None, 3, False),
    "partial that fails": (job_flow, BOB, 0, True),
    "session": (session_flow, BOB, 0, False),
}


@pytest.fixture
def databases(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """Makes one empty database after the other."""
    made: list[str] = []

    def new(kind: str) -> str:
        if kind == "sqlite":
            made.append("")
            return f"sqlite:///{tmp_path / f'{len(made)}.db'}"
        server: Server = request.getfixturevalue("postgres_server")
        made.append(server.create())
        return made[-1]

    yield new
    for dsn in filter(None, made):
        request.getfixturevalue("postgres_server").drop(database_name(dsn))


@pytest.mark.parametrize(
    ("flow", "kind"),
    [*((flow, "sqlite") for flow in FLOWS), ("partial", "postgres"), ("session", "postgres")],
)
def test_killed_at_every_step(
    flow: str, kind: str, nursery: subprocess.Popen[str], databases: Any, tmp_path: Path
) -> None:
    """Killed at each step in turn, the service loses nothing, doubles nothing, and ends right."""
    play, secret, eval_sats, broken = FLOWS[flow]
    points = 0
    while True:
        url = databases(kind)
        order = {
            "db": url,
            "socket": str(tmp_path / "socket"),
            "crash_at": points + 1,
            "eval_sats": eval_sats,
            "broken": broken,
        }

        async def run(order: dict[str, Any] = order) -> tuple[dict[str, Any], bool]:
            async with Agent(nursery, order) as agent:
                return await play(agent, secret), agent.killed

        end, killed = asyncio.run(run())
        check_books(url, end, eval_sats, broken)
        if not killed:
            break
        points += 1
    assert points >= (6 if flow == "free" else 15), points


def check_books(url: str, end: dict[str, Any], eval_sats: int, broken: bool) -> None:
    """One invoice a stage, one credit, one refund, and a journal that proves the pool."""
    assert end["state"] == ("failed" if broken else "complete")
    with freetier.open(url, POLICY) as ledger:
        assert ledger.verify().ok
        entries = list(ledger.journal())
        assert ledger.pool_status().reserved_sats == 0
    scheme, _, rest = url.partition(":")
    driver = DRIVERS[scheme][1].removesuffix("+aiosqlite")
    engine = create_engine(f"{driver}:{rest}")
    with engine.connect() as connection:
        payments = connection.execute(text("SELECT * FROM paper_payments")).mappings().all()
    engine.dispose()
    paid_in = [p["sats"] for p in payments if not p["outgoing"] and p["paid"]]
    paid_out = [p["sats"] for p in payments if p["outgoing"] and p["paid"]]
    keys = [p["key"].rpartition(":")[2] for p in payments if not p["outgoing"]]
    assert len(keys) == len(set(keys))
    owed = end["refund"]["sats"]
    assert paid_out == ([owed] if owed else [])
    in_the_end = sum(paid_in) - sum(paid_out)
    credits = [entry.paid_sats for entry in entries if entry.kind is Kind.CREDIT]
    drawn = sum(-e.balance_change for e in entries if e.kind in (Kind.SETTLE, Kind.GRANT))
    assert drawn == end["absorbed_sats"]
    if broken:
        assert (in_the_end, credits) == (eval_sats, [])
    else:
        assert credits == ([in_the_end - eval_sats] if in_the_end > eval_sats else [])
        assert drawn + in_the_end - eval_sats == end["actual_sats"]
