"""The example service's API: what is shown to whom, and what is refused."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from examples.paid_agent import store
from examples.paid_agent.app import create_app
from examples.paid_agent.service import Service
from examples.paid_agent.settings import Settings
from examples.paid_agent.work import TextFacts, Verdict

from .nostr_signer import pubkey_of
from .paid_agent import (
    ADA,
    BOB,
    LEFT,
    POLICY,
    PRICE,
    TEXT,
    TIERS,
    Api,
    on_a_port,
    played,
    served,
    started,
)
from .paid_agent_work import Stale, Unexpected


@pytest.fixture(params=["sqlite", "postgres"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    return started(request, tmp_path)


@pytest.fixture
def play(settings: Settings) -> Callable[..., None]:
    return partial(played, settings)


def test_an_estimate(play: Callable[..., None]) -> None:
    """An estimate has the price, the caller's own decision and the pool, and writes nothing."""

    async def scenario(api: Api, service: Service) -> None:
        path = f"/api/estimate?request={TEXT.replace(' ', '%20')}"
        anonymous = (await api.get(path)).json()
        assert anonymous["estimated_sats"] == PRICE
        assert (anonymous["btc_usd"], anonymous["input_tokens"]) == ("100000", 56)
        assert anonymous["decision"]["serve"] == "gate"
        assert anonymous["pool_balance_sats"] == 1000
        assert anonymous["budgets"] == {"new": 0, "established": LEFT, "elite": 500}
        known = (await api.get(path, BOB)).json()
        assert (known["identity"], known["tier"]) == (pubkey_of(BOB), "established")
        assert (known["decision"]["serve"], known["decision"]["absorb_sats"]) == ("partial", LEFT)
        async with service.store.reading() as books:
            assert len([entry async for entry in books.ledger.journal()]) == 1

    play(scenario)


def test_a_stale_price_sells_nothing(play: Callable[..., None]) -> None:
    """While the bitcoin price is too old, an estimate is 503 and a job waits, unpriced."""

    async def scenario(api: Api, service: Service) -> None:
        service.settings = service.jobs.settings = Stale(tiers=TIERS, policy=POLICY)
        estimate = await api.get("/api/estimate?request=hello")
        assert (estimate.status_code, estimate.json()["error"]) == (503, "StalePrice")
        job = await api.job(ADA)
        assert (job["state"], job["next_step"]) == ("evaluating", "evaluation")

    play(scenario)


def test_who_may_read_a_job(play: Callable[..., None]) -> None:
    """A job that a key created is shown to that key alone; a proof counts once."""

    async def scenario(api: Api, service: Service) -> None:
        path = f"/api/jobs/{(await api.job(ADA))['id']}"
        assert (await api.get(path, ADA)).status_code == 200
        for secret in (None, BOB):
            assert (await api.get(path, secret)).status_code == 404
        headers = api.authorization("GET", path, b"", ADA)
        assert (await api.http.get(path, headers=headers)).status_code == 200
        again = await api.http.get(path, headers=headers)
        assert (again.status_code, again.json()["error"]) == (401, "NotAuthenticated")
        forged = await api.http.get(path, headers={"Authorization": "Nostr e30="})
        assert forged.status_code == 401

    play(scenario)


def test_the_pool(play: Callable[..., None]) -> None:
    """The pool's state is there for monitoring, as the ledger has it."""

    async def scenario(api: Api, service: Service) -> None:
        await api.job(BOB)
        pool = (await api.get("/api/pool")).json()
        assert (pool["balance_sats"], pool["reserved_sats"], pool["available_sats"]) == (
            1000,
            LEFT,
            1000 - LEFT,
        )
        assert (pool["open_grants"], pool["absorbed_today_sats"]) == (1, LEFT)

    play(scenario)


@pytest.mark.parametrize(
    ("path", "body", "where"),
    [
        ("/api/jobs", {}, "body.request"),
        ("/api/jobs", {"request": ""}, "body.request"),
        ("/api/jobs", {"request": "a\0b"}, "body.request"),
        ("/api/jobs", {"request": 5}, "body.request"),
        ("/api/jobs", {"request": "x", "price": 1}, "body.price"),
        ("/api/jobs", {"request": "x", "id": "short"}, "body.id"),
        ("/api/sessions", {"deposit_sats": 0}, "body.deposit_sats"),
        ("/api/sessions", {"deposit_sats": True}, "body.deposit_sats"),
        ("/api/sessions", {"deposit_sats": "5"}, "body.deposit_sats"),
    ],
    ids=str,
)
def test_bad_input(play: Callable[..., None], path: str, body: object, where: str) -> None:
    """What cannot be taken is a problem that names the member; nothing is written."""

    async def scenario(api: Api, service: Service) -> None:
        refused = await api.post(path, body)
        assert refused.status_code == 422
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["detail"].startswith(f"{where}: ")

    play(scenario)


@pytest.mark.parametrize(
    "destination",
    ["hello", "LNURL1DP68GURN8GHJ7", "ada@", "@example.org", "Ada@example.org", "lnbc", "a@b c"],
)
def test_where_no_refund_can_go(play: Callable[..., None], destination: str) -> None:
    """What is neither a Lightning address nor an invoice is refused where it is said."""

    async def scenario(api: Api, service: Service) -> None:
        answer = await api.post("/api/jobs", {"request": TEXT, "refund_to": destination})
        assert (answer.status_code, "body.refund_to" in answer.json()["detail"]) == (422, True)
        job = await api.job()
        to = {"destination": destination}
        answer = await api.post(f"/api/jobs/{job['id']}/refund", to)
        assert (answer.status_code, "body.destination" in answer.json()["detail"]) == (422, True)

    play(scenario)


def test_a_mistake_of_the_services_own(play: Callable[..., None]) -> None:
    """What the library refuses and no caller sent is a 500, not the caller's fault."""

    class Odd(TextFacts):
        def expect(self, request: str) -> Verdict:
            return Verdict(None, -1, -1)

    async def scenario(api: Api, service: Service) -> None:
        answer = await api.get("/api/estimate?request=hello")
        assert (answer.status_code, answer.json()["title"]) == (500, "Internal Server Error")

    play(scenario, work=Odd())


def test_an_estimate_that_breaks(settings: Settings) -> None:
    """Whatever breaks is answered as a problem, which says nothing of what it was."""

    async def run() -> None:
        app = create_app(settings, work=Unexpected())
        async with on_a_port(app) as url, httpx.AsyncClient(base_url=url) as client:
            answer = await client.get("/api/estimate?request=hello")
        assert answer.status_code == 500
        assert answer.headers["content-type"] == "application/problem+json"
        assert "secret" not in answer.text

    asyncio.run(run())


def test_a_database_that_is_held_up(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who cannot be answered, because another holds the database, is told so in time: 503.

    On SQLite reading goes on meanwhile.
    """
    monkeypatch.setattr(store, "PATIENCE_S", 1)

    async def scenario() -> None:
        async with served(settings) as (api, _), held_up(settings.db):
            calls = (api.post("/api/jobs", {"request": TEXT}) for _ in range(30))
            answers = await asyncio.gather(*calls)
            assert {answer.status_code for answer in answers} == {503}
            assert answers[0].headers["Retry-After"]
            pool = await api.get("/api/pool")
            assert pool.status_code == (200 if settings.db.startswith("sqlite") else 503)
        async with served(settings) as (api, _):
            await api.job()

    asyncio.run(scenario())


@asynccontextmanager
async def held_up(url: str) -> AsyncIterator[None]:
    """The database, held by somebody else."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
    else:
        async with await psycopg.AsyncConnection.connect(url) as connection:
            await connection.execute("LOCK TABLE freetier_pool, paid_jobs IN ACCESS EXCLUSIVE MODE")
            yield


def test_what_is_not_there(play: Callable[..., None]) -> None:
    """Of what nobody created, or another did, the answer says that there is no such thing."""

    async def scenario(api: Api, service: Service) -> None:
        job = await api.job(ADA)
        for path in ("/api/jobs/nothing-here", f"/api/jobs/{job['id']}"):
            answer = await api.get(path)
            assert (answer.status_code, answer.json()["detail"]) == (404, "There is no such job.")
        answer = await api.get("/api/sessions/nothing-here")
        assert (answer.status_code, answer.json()["detail"]) == (404, "There is no such session.")

    play(scenario)


def test_a_proof_is_used_once(settings: Settings) -> None:
    """A proof of a key that was used lets nobody in again, not even after a restart."""

    async def scenario() -> None:
        signed: dict[str, str] = {}
        for statuses in ([200, 401], [401, 401]):
            async with served(settings) as (api, service):
                signed = signed or api.authorization("GET", "/api/estimate?request=a", b"", ADA)
                for status in statuses:
                    answer = await api.http.get("/api/estimate?request=a", headers=signed)
                    assert answer.status_code == status, answer.text
                await service.proofs.forget(datetime.now(UTC) + timedelta(hours=1))
        async with served(settings) as (api, service):
            await service.proofs.forget(datetime.now(UTC) + timedelta(hours=1, seconds=61))
            answer = await api.http.get("/api/estimate?request=a", headers=signed)
            assert answer.status_code == 200  # forgotten: that is what the memory is for

    asyncio.run(scenario())


def test_another_path_is_not_there(play: Callable[..., None]) -> None:
    """A path with a slash more is no path: a redirect would lead a signed request elsewhere."""

    async def scenario(api: Api, service: Service) -> None:
        assert (await api.post("/api/jobs/", {"request": TEXT})).status_code == 404

    play(scenario)


def test_only_our_invoices_are_paid_on_paper(play: Callable[..., None]) -> None:
    """What the service itself pays is no invoice that a wallet could pay."""

    async def scenario(api: Api, service: Service) -> None:
        _, outgoing = await service.node.invoice_of("ada@example.org", 5)
        answer = await api.post(f"/api/paper/{outgoing}/pay", {})
        assert (answer.status_code, answer.json()["detail"]) == (404, "There is no such invoice.")

    play(scenario)


def test_a_signature_is_for_the_path_that_is_asked(play: Callable[..., None]) -> None:
    """A proof is for the path as it was sent, and no Host field makes it one for another."""

    async def scenario(api: Api, service: Service) -> None:
        job = await api.job(ADA)
        for path in (f"/api/jobs/{job['id']}", "/api/estimate?request=%C3%A9%20%26%2B+a"):
            for host in ("elsewhere/api?x=", "["):
                signed = api.authorization("GET", path, b"", ADA)
                answer = await api.http.get(path, headers={**signed, "Host": host})
                assert answer.status_code == 200, answer.text
        signed = api.authorization("GET", "/api/estimate?request=hello", b"", ADA)
        answer = await api.http.get("/api/estimate?request=hallo", headers=signed)
        assert answer.status_code == 401

    play(scenario)


def test_a_body_that_is_too_long(play: Callable[..., None]) -> None:
    """A body of more than 100,000 bytes is refused, whether or not it says how long it is."""

    async def scenario(api: Api, service: Service) -> None:
        async def chunks() -> Any:
            for _ in range(11):
                yield b" " * 10_000

        for content in (b" " * 100_001, chunks()):
            refused = await api.http.post("/api/jobs", content=content)
            assert refused.status_code == 413, refused.text
            assert refused.json()["title"]

    play(scenario)
