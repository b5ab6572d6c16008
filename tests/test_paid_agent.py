"""The example service: free, partial and gate, whatever its callers, its work or its node do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from examples.paid_agent.lightning import NodeError
from examples.paid_agent.paper import PaperNode
from examples.paid_agent.service import Service
from examples.paid_agent.settings import Settings
from examples.paid_agent.work import Done, TextFacts, Verdict
from freetier import Kind

from .nostr_signer import pubkey_of
from .paid_agent import (
    ADA,
    BOB,
    CYD,
    LEFT,
    POLICY,
    PRICE,
    TEXT,
    TIERS,
    Api,
    entries,
    paid_session,
    played,
    served,
    started,
)
from .paid_agent_work import Broken, Choosy, Dear, Raising, Slow, Stale, Unexpected, Unkeepable


@pytest.fixture(params=["sqlite", "postgres"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    return started(request, tmp_path)


@pytest.fixture
def play(settings: Settings) -> Callable[..., None]:
    return partial(played, settings)


def test_free(play: Callable[..., None]) -> None:
    """A known caller within the budget gets no invoice: the work starts, and the pool pays."""

    async def scenario(api: Api, service: Service) -> None:
        job = await api.job(ADA)
        assert (job["invoice"], job["work_amount_sats"], job["free_tier"]) == (None, 0, True)
        done = await api.until(f"/api/jobs/{job['id']}", "state", "complete", secret=ADA)
        assert done["result"].startswith("56 words, 4 sentences.")
        assert 0 < done["absorbed_sats"] == done["actual_sats"] <= PRICE
        assert (done["next_step"], done["refund"]["state"]) == (None, "not_applicable")
        assert await entries(service, Kind.SETTLE) == [(f"job:{job['id']}", -done["actual_sats"])]
        assert await entries(service, Kind.CREDIT) == []

    play(scenario)


def test_partial(play: Callable[..., None]) -> None:
    """A caller beyond the budget pays the rest; what was too much comes back.

    The pool gets its share of what was paid in the end.
    """

    async def scenario(api: Api, service: Service) -> None:
        job = await api.job(BOB)
        assert (job["state"], job["absorbed_sats"]) == ("awaiting_work_payment", LEFT)
        assert job["invoice"]["amount_sats"] == job["work_amount_sats"] == PRICE - LEFT
        async with service.store.reading() as books:
            assert (await books.ledger.pool_status()).reserved_sats == LEFT
        await api.pay(job)
        path = f"/api/jobs/{job['id']}"
        done = await api.until(path, "state", "complete", secret=BOB)
        charged = done["actual_sats"] - LEFT
        assert 0 < charged < PRICE - LEFT
        assert done["refund"] == {
            "sats": PRICE - LEFT - charged,
            "state": "pending",
            "destination": None,
            "payment_hash": None,
        }
        assert await entries(service, Kind.CREDIT) == [
            (job["invoice"]["payment_hash"], charged // 2)
        ]
        refunded = await api.post(f"{path}/refund", {"destination": "bob@example.org"}, BOB)
        assert refunded.json()["refund"]["state"] == "paid"
        assert refunded.json()["refund"]["payment_hash"]

    play(scenario)


@pytest.mark.parametrize("secret", [None, CYD], ids=["anonymous", "new"])
def test_gate(play: Callable[..., None], secret: bytes | None) -> None:
    """Who is anonymous or new pays the full price; the pool gives nothing, and gets its share."""

    async def scenario(api: Api, service: Service) -> None:
        job = await api.job(secret)
        assert (job["work_amount_sats"], job["free_tier"], job["absorbed_sats"]) == (
            PRICE,
            False,
            0,
        )
        await api.pay(job)
        done = await api.until(f"/api/jobs/{job['id']}", "state", "complete", secret=secret)
        assert done["refund"]["sats"] == PRICE - done["actual_sats"]
        assert await entries(service, Kind.RESERVE, Kind.SETTLE) == []
        (credit,) = await entries(service, Kind.CREDIT)
        assert credit[1] == done["actual_sats"] // 2

    play(scenario)


def test_an_empty_pool_gates(play: Callable[..., None]) -> None:
    """When the pool has nothing, a known caller pays the full price too."""

    async def scenario(api: Api, service: Service) -> None:
        job = await api.job(ADA)
        assert (job["work_amount_sats"], job["absorbed_sats"]) == (PRICE, 0)

    play(scenario, policy=evolve(POLICY, seed_sats=0))


def test_created_again(play: Callable[..., None]) -> None:
    """A creation that is repeated, also many times at once, has one job, invoice and grant."""

    async def scenario(api: Api, service: Service) -> None:
        body = {"request": TEXT, "id": "my-own-job-that-i-keep-1"}
        answers = await asyncio.gather(*(api.post("/api/jobs", body, BOB) for _ in range(10)))
        assert sorted(answer.status_code for answer in answers) == [200] * 9 + [201]
        assert len({answer.json()["invoice"]["payment_hash"] for answer in answers}) == 1
        assert len(await entries(service, Kind.RESERVE)) == 1
        for other, secret in (({"request": "Another text"}, BOB), ({}, ADA)):
            refused = await api.post("/api/jobs", body | other, secret)
            assert (refused.status_code, refused.json()["error"]) == (409, "Conflict")
            assert pubkey_of(BOB) not in refused.text

    play(scenario)


def test_an_evaluation_that_costs(play: Callable[..., None]) -> None:
    """Where the evaluation costs something, it is paid for first, and then the work."""

    async def scenario(api: Api, service: Service) -> None:
        job = await api.job()
        assert (job["state"], job["invoice"]["amount_sats"]) == ("awaiting_eval_payment", 3)
        await api.pay(job)
        path = f"/api/jobs/{job['id']}"
        priced = await api.until(path, "next_step", "payment")
        while priced["state"] != "awaiting_work_payment":
            priced = await api.until(path, "next_step", "payment")
        assert priced["invoice"]["amount_sats"] == PRICE
        await api.pay(priced)
        await api.until(path, "state", "complete")

    play(scenario, eval_sats=3)


def test_a_rejection(play: Callable[..., None]) -> None:
    """What the evaluation refuses is asked no price for."""

    async def scenario(api: Api, service: Service) -> None:
        job = await api.job(ADA)
        assert (job["state"], job["rejection_reason"]) == ("rejected", "not our kind of work")
        assert (job["work_amount_sats"], job["invoice"], job["next_step"]) == (None, None, None)
        refused = await api.get("/api/estimate?request=hello")
        assert refused.status_code == 422

    play(scenario, work=Choosy())


@pytest.mark.parametrize(("secret", "paid"), [(ADA, 0), (BOB, PRICE - LEFT), (None, PRICE)])
def test_work_that_fails(play: Callable[..., None], secret: bytes | None, paid: int) -> None:
    """When the work fails, the pool has everything back, and the caller gets everything back."""

    async def scenario(api: Api, service: Service) -> None:
        job = await api.job(secret, refund_to="caller@example.org")
        if paid:
            await api.pay(job)
        path = f"/api/jobs/{job['id']}"
        failed = await api.until(path, "state", "failed", secret=secret)
        assert (failed["error_message"], failed["absorbed_sats"]) == ("out of order", 0)
        assert failed["refund"]["sats"] == paid
        if paid:
            await api.until(path, "next_step", None, secret=secret)
        async with service.store.reading() as books:
            pool = await books.ledger.pool_status()
        assert (pool.balance_sats, pool.reserved_sats, pool.absorbed_today_sats) == (1000, 0, 0)

    play(scenario, work=Broken())


def test_work_that_breaks_otherwise(play: Callable[..., None]) -> None:
    """Work that raises what it should not has failed all the same; the caller is told no secret."""

    async def scenario(api: Api, service: Service) -> None:
        job = await api.job(ADA)
        failed = await api.until(f"/api/jobs/{job['id']}", "state", "failed", secret=ADA)
        assert failed["error_message"] == "the work broke"
        session = f"/api/sessions/{await paid_session(api, 100, None)}"
        done = (await api.post(f"{session}/request", {"request": TEXT})).json()
        assert (done["state"], done["error_message"]) == ("failed", "the work broke")

    play(scenario, work=Raising())


@pytest.mark.parametrize("work", [Unkeepable, Unexpected])
def test_what_nobody_can_keep(
    play: Callable[..., None], work: type[Unkeepable | Unexpected]
) -> None:
    """A job whose evaluation breaks, or whose result no database takes, fails and is refunded."""

    async def scenario(api: Api, service: Service) -> None:
        job = await api.job(BOB)
        path = f"/api/jobs/{job['id']}"
        if job["invoice"]:
            await api.pay(job)
        failed = await api.until(path, "state", "failed", secret=BOB)
        assert failed["refund"]["sats"] == (job["work_amount_sats"] or 0)
        assert "secret" not in failed["error_message"]
        async with service.store.reading() as books:
            assert (await books.ledger.pool_status()).reserved_sats == 0

    play(scenario, work=work())


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


def test_records_and_ledger_say_the_same(play: Callable[..., None]) -> None:
    """What the records say the pool paid is what the ledger says it spent."""

    async def scenario(api: Api, service: Service) -> None:
        for secret in (ADA, BOB, CYD, BOB):
            job = await api.job(secret)
            if job["invoice"]:
                await api.pay(job)
            await api.until(f"/api/jobs/{job['id']}", "state", "complete", secret=secret)
            session = f"/api/sessions/{await paid_session(api, 100, secret)}"
            done = await api.post(f"{session}/request", {"request": TEXT}, secret)
            assert done.json()["state"] == "complete"
        async with service.store.reading() as books:
            tables = books.tables
            made = await books.select(tables.jobs, "SELECT * FROM paid_jobs", {})
            sql = "SELECT * FROM paid_session_requests"
            served = await books.select(tables.session_requests, sql, {})
            pool = await books.ledger.pool_status()
        spent = sum(pool.totals[kind] for kind in (Kind.SETTLE, Kind.LATE, Kind.GRANT))
        absorbed = [job.absorbed_sats for job in made] + [asked.absorbed_sats for asked in served]
        assert len(absorbed) == 8
        assert sum(absorbed) == spent > 0

    play(scenario)


def test_nobody_waits_for_the_work(play: Callable[..., None]) -> None:
    """A creation that is repeated, and a refund's destination, are answered while the work runs."""

    async def scenario(api: Api, service: Service) -> None:
        body = {"id": "a-job-that-takes-its-time", "refund_to": "ada@example.org"}
        await api.job(ADA, **body)
        again = await api.job(ADA, **body)
        assert again["state"] == "executing"
        to = {"destination": "ada@example.com"}
        answer = await api.post(f"/api/jobs/{body['id']}/refund", to, ADA)
        assert answer.json()["state"] == "executing"

    play(scenario, work=Slow())


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


def test_work_that_costs_more(play: Callable[..., None]) -> None:
    """Nobody pays more than quoted, whatever the work cost."""

    async def scenario(api: Api, service: Service) -> None:
        job = await api.job(BOB)
        await api.pay(job)
        done = await api.until(f"/api/jobs/{job['id']}", "state", "complete", secret=BOB)
        assert done["actual_sats"] > PRICE
        assert (done["absorbed_sats"], done["refund"]["sats"]) == (LEFT, 0)
        assert await entries(service, Kind.CREDIT) == [
            (job["invoice"]["payment_hash"], (PRICE - LEFT) // 2)
        ]

    play(scenario, work=Dear())


def test_never_paid(play: Callable[..., None]) -> None:
    """An invoice that is not paid in time ends the job, and the pool has its sats back.

    The caller's allowance stays spent.
    """

    async def scenario(api: Api, service: Service) -> None:
        job = await api.job(BOB)
        await asyncio.sleep(0.5)
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

    play(scenario, invoice_ttl=timedelta(seconds=0.2), work_time=timedelta(seconds=0.2))


@pytest.mark.parametrize("told", [True, False], ids=["told", "found out"])
def test_paid_late(play: Callable[..., None], told: bool) -> None:
    """An invoice that is paid after all is honoured: the work is done at the price quoted."""

    async def scenario(api: Api, service: Service) -> None:
        job = await api.job(BOB)
        await asyncio.sleep(0.5)
        await service.round()
        path = f"/api/jobs/{job['id']}"
        await api.until(path, "state", "failed", secret=BOB)
        if told:
            await api.pay(job)
        else:
            assert isinstance(service.node, PaperNode)
            await service.node.receive(job["invoice"]["payment_hash"])
            await service.round()
        done = await api.until(path, "state", "complete", secret=BOB)
        assert done["absorbed_sats"] == LEFT
        assert len(await entries(service, Kind.LATE)) == 1

    play(scenario, invoice_ttl=timedelta(seconds=0.2), work_time=timedelta(seconds=0.2))


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
        stored = await service.jobs.advance("orphan-1", up_to=None)
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
        await service.round()
        for job in jobs[1:]:
            await api.until(f"/api/jobs/{job['id']}", "state", "complete")
        assert (await api.get(f"/api/jobs/{jobs[0]['id']}")).json()["state"] == "failed"

    played(settings, scenario, invoice_ttl=timedelta(seconds=0.1))


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
        headers = api._authorization("GET", path, b"", ADA)
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
