"""The example service: free, partial and gate, whatever its work does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import example, given
from hypothesis.strategies import text

from examples.paid_agent.service import Service
from examples.paid_agent.settings import Settings
from examples.paid_agent.work import NOT_SOLD, TextFacts
from freetier import AsyncFreeTier, Kind, Settlement, StoreUnavailable

from .nostr_signer import pubkey_of
from .paid_agent import (
    ADA,
    BOB,
    CYD,
    LEFT,
    POLICY,
    PRICE,
    TEXT,
    Api,
    entries,
    paid_session,
    played,
    served,
    started,
)
from .paid_agent_work import (
    Broken,
    Choosy,
    Counted,
    Curt,
    Dear,
    Endless,
    Mute,
    Raising,
    Slow,
    Unexpected,
    Unkeepable,
)


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


@pytest.mark.parametrize(
    ("work", "reason"),
    [(Choosy, "not our kind of work"), (Curt, "it is not the kind of work that is done here")],
)
def test_a_rejection(play: Callable[..., None], work: type[TextFacts], reason: str) -> None:
    """What the evaluation refuses is asked no price for; the caller is told why not."""

    async def scenario(api: Api, service: Service) -> None:
        job = await api.job(ADA)
        assert (job["state"], job["rejection_reason"]) == ("rejected", reason)
        assert (job["work_amount_sats"], job["invoice"], job["next_step"]) == (None, None, None)
        refused = await api.get("/api/estimate?request=hello")
        assert refused.status_code == 422

    play(scenario, work=work())


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


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (Raising, "the work broke"),
        (Mute, "the work failed"),
        (Endless, "the work took too long"),
    ],
)
def test_work_that_breaks_otherwise(
    play: Callable[..., None], work: type[TextFacts], message: str
) -> None:
    """Work that raises what it should not, says nothing, or does not end, has failed all the same.

    The caller is told no secret, and gets everything back.
    """

    async def scenario(api: Api, service: Service) -> None:
        job = await api.job(ADA)
        failed = await api.until(f"/api/jobs/{job['id']}", "state", "failed", secret=ADA)
        assert failed["error_message"] == message
        session = f"/api/sessions/{await paid_session(api, 100, None)}"
        done = (await api.post(f"{session}/request", {"request": TEXT})).json()
        assert (done["state"], done["error_message"]) == ("failed", message)
        closed = (await api.post(f"{session}/close", {"destination": "ada@example.org"})).json()
        assert closed["refund"]["sats"] == 100

    play(scenario, work=work(), work_time=timedelta(seconds=0.5))


@given(text())
@example("İ" * 15_000)
def test_the_facts_of_a_text(request_text: str) -> None:
    """The work takes no more than is expected of it, whatever the text."""
    work = TextFacts()
    done = asyncio.run(work.do(request_text))
    most = work.expect(request_text)
    assert most.refused or (
        done.input_tokens <= most.input_tokens and done.output_tokens <= most.output_tokens
    )


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


def test_a_job_that_cannot_be_settled_now(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work that is done is kept while the ledger is away, and not done again."""
    work = Counted()

    async def away(self: AsyncFreeTier, request_id: str, actual_sats: int) -> Settlement:
        raise StoreUnavailable("away")

    async def scenario(api: Api, service: Service) -> None:
        monkeypatch.setattr(AsyncFreeTier, "settle", away)
        job = await api.job(ADA)
        path = f"/api/jobs/{job['id']}"
        waits = await api.until(path, "next_step", "settlement", secret=ADA)
        assert waits["state"] == "executing"
        monkeypatch.undo()
        await service.round()
        await api.until(path, "state", "complete", secret=ADA)
        assert work.done == 1

    play(scenario, work=work)


def test_a_tier_that_is_no_more(settings: Settings) -> None:
    """A job whose tier the policy has no more is called off, and its evaluation is paid back.

    A session of such a tier serves nothing more, and is paid back.
    """

    async def scenario() -> None:
        costly = evolve(settings, eval_sats=7)
        async with served(costly) as (api, _):
            job = await api.job(BOB, refund_to="bob@example.org")
            session = f"/api/sessions/{await paid_session(api, 100, BOB)}"
        without = evolve(costly, policy=evolve(POLICY, budgets={"new": 0}))
        async with served(without) as (api, _):
            await api.pay(job)
            failed = await api.until(f"/api/jobs/{job['id']}", "state", "failed", secret=BOB)
            assert (failed["error_message"], failed["refund"]["sats"]) == (NOT_SOLD, 7)
            refused = await api.post(f"{session}/request", {"request": TEXT}, BOB)
            assert (refused.status_code, NOT_SOLD in refused.json()["detail"]) == (422, True)
            to = {"destination": "bob@example.org"}
            closed = await api.post(f"{session}/close", to, BOB)
            assert closed.json()["refund"]["sats"] == 100

    asyncio.run(scenario())


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
