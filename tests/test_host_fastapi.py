"""The how-to's FastAPI host, on SQLite and on Postgres."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import event

import freetier
from freetier import FreeTier

from .doc_pages import DOCS, blocks, read
from .host_connections import Host as HostConnection
from .host_connections import connected
from .hosts import fastapi_app
from .hosts.fastapi_app import POLICY, app

HOST = Path(fastapi_app.__file__)
PAGE = DOCS / "how-to" / "use-with-fastapi.md"
ALICE = "key-of-alice"
SQLITE = "sqlite:///"
OTHERS = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
"""


class Host:
    """The running service, as its callers see it."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner
        # An error of the service's own is a 500, as behind a server.
        transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://host")
        self.before_answer: Callable[[], object] = lambda: None

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.before_answer()
            await send(message)

        await app(scope, receive, sending)

    def get(self, path: str) -> httpx.Response:
        return self._runner.run(self.client.get(path))

    def post(self, path: str) -> httpx.Response:
        return self._runner.run(self.client.post(path))

    def order(
        self, *jobs: str, key: str = ALICE, question: str = "Why?", price_sats: int = 120
    ) -> list[httpx.Response]:
        """What it answers to new jobs that are ordered all at once."""

        async def order(job: str) -> httpx.Response:
            new = {"id": job, "question": question, "price_sats": price_sats}
            return await self.client.post("/jobs", json=new, headers={"X-Key": key})

        async def order_all() -> list[httpx.Response]:
            return await asyncio.gather(*map(order, jobs))

        return self._runner.run(order_all())


@contextmanager
def serving() -> Iterator[Host]:
    """The service, from its start to its stop."""
    with asyncio.Runner() as runner:
        host, stack = Host(runner), AsyncExitStack()
        runner.run(stack.enter_async_context(app.router.lifespan_context(app)))
        try:
            yield host
        finally:
            runner.run(host.client.aclose())
            runner.run(stack.aclose())


@contextmanager
def beside(url: str) -> Iterator[HostConnection]:
    """Another connection to the service's database."""
    kind = "sqlite3" if url.startswith(SQLITE) else "psycopg"
    with connected(kind, url.removeprefix(SQLITE)) as other:
        yield other


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The service's database, with its own table."""
    if request.param == "sqlite":
        url = f"{SQLITE}{tmp_path}/host.db"
    else:
        url = str(request.getfixturevalue("postgres_dsn"))
    if request.param == "impatient":
        url += "&options=-clock_timeout%3D50"
    with beside(url) as other:
        other.execute(
            "CREATE TABLE jobs (id TEXT PRIMARY KEY, question TEXT CHECK (question <> ''))"
        )
        other.commit()
    monkeypatch.setenv("DATABASE_URL", url)
    return url


@pytest.fixture
def host(url: str) -> Iterator[Host]:
    with serving() as host:
        yield host


@pytest.fixture
def ledger(url: str, host: Host) -> Iterator[FreeTier]:
    """The service's ledger, read beside it."""
    with freetier.open(url, POLICY) as ledger:
        yield ledger


def questions(url: str) -> list[tuple[str, str]]:
    """The service's own rows."""
    with beside(url) as other:
        return other.execute("SELECT id, question FROM jobs ORDER BY id")


def keys(ledger: FreeTier) -> list[str]:
    """Whom the entries are for, after the seed."""
    assert ledger.verify().ok
    return [entry.key for entry in ledger.journal(after=1)]


def test_from_order_to_settlement(host: Host, ledger: FreeTier) -> None:
    """An ordered job is reserved for, settled on its real cost, and the pool has the rest back."""
    (answer,) = host.order("job")
    assert answer.json() == {"serve": "free", "absorb_sats": 120, "charge_sats": 0}
    assert host.get("/pool").json() == {"available_sats": 9_880, "reserved_sats": 120}
    assert host.post("/jobs/job/work").json() == {"charged_sats": 0, "refund_sats": 0}
    assert host.get("/pool").json() == {"available_sats": 9_910, "reserved_sats": 0}
    assert keys(ledger) == ["job", "job"]


def test_asked_again(host: Host, ledger: FreeTier) -> None:
    """The same job again has the same answer, and is reserved for once."""
    (first,) = host.order("job")
    assert [answer.json() for answer in host.order("job", "job", "job")] == [first.json()] * 3
    assert keys(ledger) == ["job"]


def test_at_once(host: Host, ledger: FreeTier) -> None:
    """However many jobs are ordered at once, a caller's budget is kept to."""
    answers = host.order(*(f"job-{number}" for number in range(24)))
    assert [answer.status_code for answer in answers] == [200] * 24
    assert sum(answer.json()["absorb_sats"] for answer in answers) == 200
    assert len(keys(ledger)) == 2


def test_stranger(host: Host) -> None:
    """Nobody is whom they say they are: without a key there is no allowance."""
    (answer,) = host.order("job", key="alice")
    assert answer.json() == {"serve": "gate", "absorb_sats": 0, "charge_sats": 120}


def test_answered_after_the_commit(url: str, host: Host, ledger: FreeTier) -> None:
    """When the answer is sent, everybody sees the job and its grant."""
    seen: list[object] = []
    host.before_answer = lambda: seen.append((questions(url), keys(ledger)))
    host.order("job")
    assert seen == [([("job", "Why?")], ["job"])]


def test_the_row_fails(url: str, host: Host, ledger: FreeTier) -> None:
    """A job that the database refuses has no grant; its id is as good as new."""
    (refused,) = host.order("job", question="")
    assert refused.status_code == 500
    assert (questions(url), keys(ledger)) == ([], [])
    (answer,) = host.order("job")
    assert answer.json()["absorb_sats"] == 120


def test_the_grant_fails(url: str, host: Host, ledger: FreeTier) -> None:
    """A job that the ledger refuses has no row; its id is as good as new."""
    (refused,) = host.order("job", question="What for?", price_sats=-1)
    assert refused.status_code == 422
    assert (questions(url), keys(ledger)) == ([], [])
    host.order("job")
    assert questions(url) == [("job", "Why?")]


def test_the_commit_fails(url: str, host: Host, ledger: FreeTier) -> None:
    """A transaction that fails at its very end leaves neither; the caller gets no answer of it."""

    def fail(_: object) -> None:
        raise ZeroDivisionError

    engine = app.state.engine.sync_engine
    event.listen(engine, "commit", fail)
    (failed,) = host.order("job")
    event.remove(engine, "commit", fail)
    assert failed.status_code == 500
    assert (questions(url), keys(ledger)) == ([], [])
    (answer,) = host.order("job")
    assert answer.json()["absorb_sats"] == 120


def test_refusals(host: Host) -> None:
    """Another price for a known job is a conflict; a job that nobody ordered is not found."""
    host.order("job")
    (conflict,) = host.order("job", price_sats=121)
    assert (conflict.status_code, conflict.json()["error"]) == (409, "Conflict")
    assert host.post("/jobs/nobody's/work").status_code == 404


@pytest.mark.parametrize("url", ["impatient"], indirect=True)
def test_unavailable(url: str, host: Host, ledger: FreeTier) -> None:
    """While the ledger cannot answer in time, the caller is told to try again; then it works."""
    with beside(url) as other:
        other.ledger.donate("gift", 1)  # not committed: it holds the pool's row
        (answer,) = host.order("job")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        other.rollback()
    assert (questions(url), keys(ledger)) == ([], [])
    (answer,) = host.order("job")
    assert answer.json()["absorb_sats"] == 120


def test_stopped(url: str) -> None:
    """A service that stopped leaves no connection open, and finds its ledger when it starts."""
    for job in ("first", "second"):
        with serving() as host:
            host.order(job)
        if url.startswith(SQLITE):  # the last connection that closes removes the log
            assert not Path(f"{url.removeprefix(SQLITE)}-wal").exists()
        else:
            with connected("psycopg", url, autocommit=True) as other:
                while other.execute(OTHERS):  # a session ends a little after its connection
                    time.sleep(0.01)
    with freetier.open(url, POLICY) as ledger:
        assert keys(ledger) == ["first", "second"]


def test_page() -> None:
    """Each block of the page is a verbatim part of the host that the tests run."""
    shown = [block for block in blocks(PAGE) if block.language == "python"]
    assert shown
    for block in shown:
        assert block.name == HOST.name
        assert block.text in read(HOST), block
