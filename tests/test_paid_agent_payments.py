"""The example service's payments: late, twice, told of or not, and while something is stuck."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from examples.paid_agent import service as service_module
from examples.paid_agent.background import Backoff
from examples.paid_agent.lightning import NodeError, Outcome
from examples.paid_agent.paper import PaperNode
from examples.paid_agent.service import AT_ONCE, Service
from examples.paid_agent.settings import Settings
from examples.paid_agent.work import Done, TextFacts
from freetier import Kind
from freetier.invoices import Invoice

from .paid_agent import (
    ADA,
    BOB,
    LEFT,
    PATIENCE_S,
    PRICE,
    TEXT,
    Api,
    entries,
    paid_session,
    played,
    served,
    started,
)


@pytest.fixture(params=["sqlite", "postgres"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    return started(request, tmp_path)


@pytest.fixture
def play(settings: Settings) -> Callable[..., None]:
    return partial(played, settings)


def test_a_refund_has_one_destination(play: Callable[..., None]) -> None:
    """A job that is created again for another refund's destination is a Conflict.

    So is another destination once the refund was paid.
    """

    async def scenario(api: Api, service: Service) -> None:
        body = {"request": TEXT, "id": "a-job-with-a-refund-x", "refund_to": "ada@example.org"}
        job = (await api.post("/api/jobs", body)).json()
        assert (await api.post("/api/jobs", body)).status_code == 200
        assert (await api.post("/api/jobs", body | {"refund_to": "eve@x.org"})).status_code == 409
        await api.pay(job)
        path = f"/api/jobs/{job['id']}"
        done = await api.until(path, "state", "complete")
        assert done["refund"]["sats"] > 0
        await service.round()
        same = await api.post(f"{path}/refund", {"destination": "ada@example.org"})
        assert (same.status_code, same.json()["refund"]["state"]) == (200, "paid")
        other = await api.post(f"{path}/refund", {"destination": "eve@example.org"})
        assert (other.status_code, other.json()["error"]) == (409, "IllegalTransition")

    play(scenario)


def test_one_invoice_for_two_refunds(play: Callable[..., None]) -> None:
    """An invoice pays one refund: the other one waits for an invoice of its own."""

    async def scenario(api: Api, service: Service) -> None:
        async def same(destination: str, sats: int) -> tuple[str, str]:
            return f"lnbc-{destination}", f"hash-{destination}"

        service.node.invoice_of = same  # type: ignore[method-assign]
        first, second = [await api.job() for _ in range(2)]
        for job in (first, second):
            await api.pay(job)
            await api.until(f"/api/jobs/{job['id']}", "state", "complete")
            to = {"destination": "the-same@example.org"}
            await api.post(f"/api/jobs/{job['id']}/refund", to)
        paths = [f"/api/jobs/{job['id']}" for job in (first, second)]
        states = [(await api.get(path)).json()["refund"]["state"] for path in paths]
        assert states == ["paid", "pending"]
        answer = await api.post(f"{paths[1]}/refund", {"destination": "another@example.org"})
        assert answer.json()["refund"]["state"] == "paid"

    play(scenario)


def test_one_invoice_for_refunds_at_once(play: Callable[..., None]) -> None:
    """Jobs and sessions that ask for one invoice at the same time: it refunds one of them.

    Nobody meets an error, and the others wait for an invoice of their own.
    """

    async def scenario(api: Api, service: Service) -> None:
        asked, all_there = count(1), asyncio.Event()

        async def same(destination: str, sats: int) -> tuple[str, str]:
            if destination == "the-same@example.org":
                if next(asked) == 6:
                    all_there.set()
                await all_there.wait()
            return f"lnbc-{destination}", f"hash-{destination}"

        service.node.invoice_of = same  # type: ignore[method-assign]
        jobs = [f"/api/jobs/{(await api.job())['id']}" for _ in range(3)]
        for path in jobs:
            await api.pay((await api.get(path)).json())
            await api.until(path, "state", "complete")
        sessions = [await paid_session(api, 100, None) for _ in range(3)]
        to = {"destination": "the-same@example.org"}
        answers = await asyncio.gather(
            *(api.post(f"{path}/refund", to) for path in jobs),
            *(api.post(f"/api/sessions/{session}/close", to) for session in sessions),
        )
        assert [answer.status_code for answer in answers] == [200] * 6
        states = sorted(answer.json()["refund"]["state"] for answer in answers)
        assert states == ["paid", *["pending"] * 5]
        waits = [path for path in jobs if (await api.get(path)).json()["next_step"] == "refund"]
        again = await api.post(f"{waits[0]}/refund", {"destination": "another@example.org"})
        assert again.json()["refund"]["state"] == "paid"

    play(scenario)


def test_never_paid(play: Callable[..., None]) -> None:
    """An invoice that is not paid in time ends the job, and the pool has its sats back.

    The caller's allowance stays spent.
    """

    async def scenario(api: Api, service: Service) -> None:
        job = await api.job(BOB)
        await asyncio.sleep(1.4)
        await service.round()
        failed = await api.until(f"/api/jobs/{job['id']}", "state", "failed", secret=BOB)
        assert (failed["next_step"], failed["absorbed_sats"], failed["refund"]["sats"]) == (
            None,
            0,
            0,
        )
        async with service.store.writing() as books:
            await books.ledger.sweep()
            pool = await books.ledger.pool_status()
        assert (pool.balance_sats, pool.reserved_sats, pool.absorbed_today_sats) == (1000, 0, LEFT)
        again = await api.job(BOB)
        assert again["absorbed_sats"] == 0

    play(scenario, invoice_ttl=timedelta(seconds=1), work_time=timedelta(seconds=0.2))


def test_a_node_that_is_away_for_too_long(
    play: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody is asked for less than the price once the grant holds the rest no more.

    A round then has nothing to ask the node for, and breaks on nothing.
    """

    class Away(PaperNode):
        away = True

        async def invoice(self, key: str, sats: int, ttl: timedelta, memo: str) -> Invoice:
            if self.away:
                raise NodeError("away")
            return await super().invoice(key, sats, ttl, memo)

    async def scenario(api: Api, service: Service) -> None:
        node = Away(service.store)
        service.jobs.node = node
        late = await api.job(BOB)
        assert late["next_step"] == "invoice"
        await asyncio.sleep(1.5)
        node.away = False
        await service.round()
        failed = await api.until(f"/api/jobs/{late['id']}", "state", "failed", secret=BOB)
        assert (failed["invoice"], failed["next_step"]) == (None, None)
        await service.late_round()
        gc.collect()  # a task that broke unheard is logged when it is forgotten
        assert [record for record in caplog.records if record.name == "asyncio"] == []
        job = await api.job()  # of which the pool pays nothing, there is nothing to be late for
        assert job["invoice"]["amount_sats"] == PRICE

    play(scenario, invoice_ttl=timedelta(seconds=2), work_time=timedelta(seconds=0.2))


@pytest.mark.parametrize("told", [True, False], ids=["told", "found out"])
def test_paid_late(play: Callable[..., None], told: bool) -> None:
    """An invoice that is paid after all is honoured: the work is done at the price quoted."""

    async def scenario(api: Api, service: Service) -> None:
        job = await api.job(BOB)
        await asyncio.sleep(1.4)
        await service.round()
        path = f"/api/jobs/{job['id']}"
        await api.until(path, "state", "failed", secret=BOB)
        if told:
            await api.pay(job)
        else:
            assert isinstance(service.node, PaperNode)
            await service.node.receive(job["invoice"]["payment_hash"])
            service.backoff = Backoff(0, 0)
            await service.late_round()
        done = await api.until(path, "state", "complete", secret=BOB)
        assert done["absorbed_sats"] == LEFT
        assert len(await entries(service, Kind.LATE)) == 1

    play(scenario, invoice_ttl=timedelta(seconds=1), work_time=timedelta(seconds=0.2))


def test_notices(play: Callable[..., None]) -> None:
    """A notice may come often, for what is not paid, or for what nobody knows: it only asks."""

    async def scenario(api: Api, service: Service) -> None:
        job = await api.job()
        notice = {"payment_hash": job["invoice"]["payment_hash"], "paid": True}
        path = f"/api/jobs/{job['id']}"
        for body in (notice, {"payment_hash": "0" * 64}):
            assert (await api.post("/api/lightning/notice", body)).status_code == 202
        await service.round()
        assert (await api.get(path)).json()["state"] == "awaiting_work_payment"
        await api.pay(job)
        for form in (notice, json.dumps(notice), notice):  # as an object, or as LNbits has it
            assert (await api.post("/api/lightning/notice", form)).status_code == 202
        await api.until(path, "state", "complete")
        await service.round()
        assert len(await entries(service, Kind.CREDIT)) == 1
        for bad in (b"", b"{}", b"5", b'{"payment_hash": 5}', b'"{"', b"[" * 50_000):
            answer = await api.http.post("/api/lightning/notice", content=bad)
            assert answer.status_code == 422

    play(scenario)


def test_a_notice_before_the_invoice_was_noted(play: Callable[..., None]) -> None:
    """An invoice that was made, and paid, by a service that died before it noted it, counts."""

    async def scenario(api: Api, service: Service) -> None:
        job, _ = await service.jobs.create("orphan-1", TEXT, None, None)
        stored = await service.jobs.advance("orphan-1")
        assert stored is not None
        assert stored.invoice is not None
        # As it was before the invoice was noted: the row knows nothing, the node does.
        before = evolve(stored, work_invoice=None, version=stored.version + 1)
        async with service.store.writing() as books:
            await books.update(books.tables.jobs, stored, before)
        assert isinstance(service.node, PaperNode)
        await service.node.receive(stored.invoice.id)
        await service.notice(stored.invoice.id)
        done = await api.until(f"/api/jobs/{job.id}", "state", "complete")
        assert done["invoice"]["payment_hash"] == stored.invoice.id

    play(scenario)


def test_a_notice_of_anything(play: Callable[..., None], settings: Settings) -> None:
    """A notice is of a payment hash, is looked into once at a time, and not too many at once."""

    class Slow(PaperNode):
        asked = 0

        async def key_of(self, invoice_id: str) -> str | None:
            self.asked += 1
            await asyncio.sleep(0.2)
            return None

    async def scenario(api: Api, service: Service) -> None:
        node = Slow(service.store)
        service.node = node
        for wrong in ("x", "0" * 63, "0" * 65, "G" * 64, "0" * 63 + "é"):
            answer = await api.post("/api/lightning/notice", {"payment_hash": wrong})
            assert answer.status_code == 422
        same = [api.post("/api/lightning/notice", {"payment_hash": "0" * 64}) for _ in range(50)]
        assert {answer.status_code for answer in await asyncio.gather(*same)} == {202}
        await asyncio.sleep(0.5)
        assert 1 <= node.asked <= 3
        many = [
            api.post("/api/lightning/notice", {"payment_hash": f"{number:064}"})
            for number in range(200)
        ]
        answers = await asyncio.gather(*many)
        assert {answer.status_code for answer in answers} == {202, 503}
        assert "Retry-After" in next(a for a in answers if a.status_code == 503).headers

    play(scenario)


def test_slow_work_keeps_nobody(settings: Settings) -> None:
    """While work takes for ever, others' payments are found by polling, and expiries too."""

    class Stuck(TextFacts):
        async def do(self, request: str) -> Done:
            if "stuck" in request:
                await asyncio.sleep(3600)
            return await super().do(request)

    async def scenario(api: Api, service: Service) -> None:
        stuck = [await api.job(ADA, request=f"stuck {number}") for number in range(15)]
        session = await paid_session(api, 100, None)
        asked = api.post(f"/api/sessions/{session}/request", {"request": "stuck"})
        waiting = asyncio.create_task(asked)
        job = await api.job()
        assert isinstance(service.node, PaperNode)
        await service.node.receive(job["invoice"]["payment_hash"])  # and nobody tells the service
        await api.until(f"/api/jobs/{job['id']}", "state", "executing", "complete")
        state = (await api.get(f"/api/jobs/{stuck[0]['id']}", ADA)).json()["state"]
        assert state == "executing"
        assert not waiting.done()

    async def run() -> None:
        polling = evolve(settings, poll=timedelta(seconds=0.1))
        async with served(polling, work=Stuck()) as (api, service):
            await scenario(api, service)

    asyncio.run(run())


def test_what_breaks_for_one_late_payer(settings: Settings) -> None:
    """A node that does not answer for one invoice is asked for the others all the same."""

    async def scenario(api: Api, service: Service) -> None:
        jobs = [await api.job() for _ in range(3)]
        hashes = [job["invoice"]["payment_hash"] for job in jobs]
        await asyncio.sleep(0.2)
        await service.round()
        real = service.node
        assert isinstance(real, PaperNode)
        for job in jobs:
            await api.until(f"/api/jobs/{job['id']}", "state", "failed")
            await real.receive(job["invoice"]["payment_hash"])

        class Partly(PaperNode):
            async def is_paid(self, invoice_id: str) -> bool:
                if invoice_id == hashes[0]:
                    raise NodeError("no answer")
                return await super().is_paid(invoice_id)

        service.jobs.node = Partly(service.store)
        service.backoff = Backoff(0, 0)
        await service.late_round()
        for job in jobs[1:]:
            await api.until(f"/api/jobs/{job['id']}", "state", "complete")
        assert (await api.get(f"/api/jobs/{jobs[0]['id']}")).json()["state"] == "failed"

    played(settings, scenario, invoice_ttl=timedelta(seconds=0.1))


def test_refunds_that_take_their_time(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refunds to addresses that do not answer keep nobody's payment from being found.

    Whoever asked for one is answered meanwhile.
    """
    monkeypatch.setattr(service_module, "SOON_S", 0.1)

    async def scenario(api: Api, service: Service) -> None:
        answers = asyncio.Event()

        async def slow(destination: str, sats: int) -> tuple[str, str]:
            await answers.wait()
            raise NodeError("no answer")

        service.node.invoice_of = slow  # type: ignore[method-assign]
        sessions = [await paid_session(api, 1, None) for _ in range(AT_ONCE + 2)]
        to = {"destination": "slow@example.org"}
        closing = [
            asyncio.create_task(api.post(f"/api/sessions/{session}/close", to))
            for session in sessions
        ]
        for closed in await asyncio.gather(*closing):
            assert (closed.status_code, closed.json()["refund"]["state"]) == (200, "pending")
        job = await api.job(refund_to="slow@example.org")
        for _ in range(2):
            await service.round()
        await api.pay(job)
        await api.until(f"/api/jobs/{job['id']}", "state", "complete")
        body = {"id": job["id"], "refund_to": "slow@example.org"}
        assert (await api.job(**body))["next_step"] == "refund"
        answers.set()

    played(settings, scenario)


def test_a_destination_that_is_corrected(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refund goes where it was said last, also while the address said before is being asked."""
    monkeypatch.setattr(service_module, "SOON_S", 0.1)

    async def scenario(api: Api, service: Service) -> None:
        answers, paid = asyncio.Event(), list[str]()

        async def slow(destination: str, sats: int) -> tuple[str, str]:
            if destination.startswith("typo"):
                await answers.wait()
            return f"lnbc-{destination}", f"hash-{destination}"

        async def pay(bolt11: str, payment_hash: str) -> Outcome:
            paid.append(bolt11)
            return Outcome.PAID

        service.node.invoice_of = slow  # type: ignore[method-assign]
        service.node.pay = pay  # type: ignore[method-assign]
        job = await api.job()
        await api.pay(job)
        path = f"/api/jobs/{job['id']}"
        await api.until(path, "state", "complete")
        for to in ("typo@example.org", "right@example.org"):
            told = await api.post(f"{path}/refund", {"destination": to})
            assert (told.status_code, told.json()["refund"]["state"]) == (200, "pending")
        answers.set()
        await api.until(path, "next_step", None)
        assert paid == ["lnbc-right@example.org"]

        session = f"/api/sessions/{await paid_session(api, 100, None)}"
        answers.clear()
        await api.post(f"{session}/close", {"destination": "typo-2@example.org"})
        opened = {"id": session.rpartition("/")[2], "deposit_sats": 100}
        again = await asyncio.wait_for(api.post("/api/sessions", opened), PATIENCE_S)
        assert (again.status_code, again.json()["refund"]["state"]) == (200, "pending")
        answers.set()

    play(scenario)


def test_a_node_that_is_down(play: Callable[..., None]) -> None:
    """A job whose invoice cannot be made waits for the node, and goes on when it answers."""

    async def scenario(api: Api, service: Service) -> None:
        real = service.node

        class Down:
            def __getattr__(self, name: str) -> Any:
                async def no(*_: object) -> None:
                    raise NodeError("no answer")

                return no

        service.jobs.node = service.sessions.node = Down()
        job = await api.job()
        assert (job["next_step"], job["invoice"]) == ("invoice", None)
        opened = (await api.post("/api/sessions", {"deposit_sats": 50})).json()
        assert opened["invoice"] is None
        service.jobs.node = service.sessions.node = real
        await service.round()
        assert (await api.get(f"/api/jobs/{job['id']}")).json()["next_step"] == "payment"
        assert (await api.get(f"/api/sessions/{opened['id']}")).json()["invoice"]

    play(scenario)


def test_a_restart_loses_nothing(settings: Settings) -> None:
    """What waited when the service stopped goes on when it starts again."""

    async def run() -> None:
        async with served(settings) as (api, service):
            job = await api.job()
            assert isinstance(service.node, PaperNode)
            await service.node.receive(job["invoice"]["payment_hash"])
        async with served(settings) as (api, service):
            await api.until(f"/api/jobs/{job['id']}", "state", "complete")

    asyncio.run(run())
