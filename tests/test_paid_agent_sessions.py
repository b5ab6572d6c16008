"""The example service's sessions: a deposit, and what is paid from it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from examples.paid_agent.background import Backoff
from examples.paid_agent.lightning import Outcome
from examples.paid_agent.service import Service
from examples.paid_agent.settings import Settings
from freetier import AsyncFreeTier, Grant, InvalidInput, Kind, Request, StoreUnavailable

from .paid_agent import (
    ADA,
    BOB,
    LEFT,
    POLICY,
    TEXT,
    TIERS,
    Api,
    entries,
    paid_session,
    played,
    served,
    started,
)
from .paid_agent_work import Broken, Counted, Slow, Stale, Unkeepable


@pytest.fixture(params=["sqlite", "postgres"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    return started(request, tmp_path)


@pytest.fixture
def play(settings: Settings) -> Callable[..., None]:
    return partial(played, settings)


def test_a_session(play: Callable[..., None]) -> None:
    """A session's request is decided on its real cost, and only the charge is debited."""

    async def scenario(api: Api, service: Service) -> None:
        session = f"/api/sessions/{await paid_session(api, 100, BOB)}"
        body = {"request": TEXT, "id": "request-1"}
        answers = await asyncio.gather(
            *(api.post(f"{session}/request", body, BOB) for _ in range(5))
        )
        (answer,) = {answer.text for answer in answers}
        done = answers[0].json()
        assert done["state"] == "complete", answer
        assert (done["absorbed_sats"], done["free_tier"]) == (LEFT, True)
        assert done["charged_sats"] == done["actual_sats"] - LEFT
        after = (await api.get(session, BOB)).json()
        assert after["balance_sats"] == after["free_sats"] == 100 - done["charged_sats"]
        (grant,) = await entries(service, Kind.GRANT)
        assert (grant[0].rpartition(":")[2], grant[1]) == ("request-1", -LEFT)
        assert await entries(service, Kind.CREDIT) == [(grant[0], done["charged_sats"] // 2)]
        other = await api.post(f"{session}/request", {"request": "Other", "id": "request-1"}, BOB)
        assert other.status_code == 409
        for secret in (None, ADA):  # it was signed for by another
            assert (await api.get(session, secret)).status_code == 404
            for path, body in (("request", {"request": TEXT}), ("close", {"destination": "a@b.c"})):
                assert (await api.post(f"{session}/{path}", body, secret)).status_code == 404
        closed = await api.post(f"{session}/close", {"destination": "bob@example.org"}, BOB)
        assert closed.json()["state"] == "closed"
        assert closed.json()["refund"]["sats"] == after["balance_sats"]
        assert closed.json()["refund"]["state"] == "paid"

    play(scenario)


def test_a_deposit_that_is_due(play: Callable[..., None]) -> None:
    """A request of a session whose deposit was not paid is 402, and says how much that is."""

    async def scenario(api: Api, service: Service) -> None:
        session = (await api.post("/api/sessions", {"deposit_sats": 70})).json()
        answer = await api.post(f"/api/sessions/{session['id']}/request", {"request": TEXT})
        due = answer.json()
        assert (answer.status_code, due["error"], due["deposit_sats"]) == (402, "DepositDue", 70)
        assert due["payment_hash"] == session["invoice"]["payment_hash"]
        assert (due["invoice"], "Pay 70 sats" in due["detail"]) == (
            session["invoice"]["bolt11"],
            True,
        )

    play(scenario)


def test_a_session_that_is_used_up(play: Callable[..., None]) -> None:
    """A balance that does not reach is 402 before the work, and never goes below 0."""

    async def scenario(api: Api, service: Service) -> None:
        session = f"/api/sessions/{await paid_session(api, 100, None)}"
        answers = await asyncio.gather(
            *(api.post(f"{session}/request", {"request": TEXT}) for _ in range(20))
        )
        by_status = {
            status: [a.json() for a in answers if a.status_code == status] for status in (200, 402)
        }
        assert len(by_status[200]) + len(by_status[402]) == 20
        assert by_status[402]
        charged = sum(done["charged_sats"] for done in by_status[200])
        after = (await api.get(session)).json()
        assert after["balance_sats"] == 100 - charged >= 0
        refusal = by_status[402][0]
        assert refusal["error"] == "InsufficientBalance"
        assert refusal["needed_sats"] > refusal["free_sats"]

    play(scenario)


def test_an_id_that_others_have(play: Callable[..., None]) -> None:
    """A request's id is its session's: a job, a payment or another session may have it too."""

    async def scenario(api: Api, service: Service) -> None:
        job = await api.job(BOB, id="an-id-of-job-and-request")
        for name in ("an-id-of-job-and-request", job["invoice"]["payment_hash"]):
            for _ in range(2):
                session = f"/api/sessions/{await paid_session(api, 100, None)}"
                body = {"request": TEXT, "id": name}
                done = (await api.post(f"{session}/request", body)).json()
                assert (done["state"], done["id"], done["absorbed_sats"]) == ("complete", name, 0)
        await api.pay(job)
        path = f"/api/jobs/{job['id']}"
        assert (await api.until(path, "state", "complete", secret=BOB))["absorbed_sats"] == LEFT
        assert len(await entries(service, Kind.CREDIT)) == 5

    play(scenario)


def test_a_refund_that_fails(play: Callable[..., None]) -> None:
    """A refund whose payment fails is tried less and less often, not each round."""

    async def scenario(api: Api, service: Service) -> None:
        tries: list[str] = []

        async def fail(bolt11: str, payment_hash: str) -> Outcome:
            tries.append(bolt11)
            return Outcome.FAILED

        service.node.pay = fail  # type: ignore[method-assign]
        job = await api.job(refund_to="ada@example.org")
        await api.pay(job)
        await api.until(f"/api/jobs/{job['id']}", "state", "complete")
        for _ in range(3):
            await service.round()
        assert len(tries) == 1
        service.backoff = Backoff(0, 0)
        while len(tries) < 3:
            await service.round()
        assert (await api.get(f"/api/jobs/{job['id']}")).json()["refund"]["state"] == "pending"

    play(scenario)


@pytest.mark.parametrize("lasting", [True, False])
def test_work_is_not_done_again(
    settings: Settings, lasting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was computed is kept when it cannot be settled, and settled later, or called off.

    It can never be settled when the policy has no such tier any more. Nobody pays for it then.
    """
    work = Counted()
    grant = AsyncFreeTier.record_grant

    async def away(self: AsyncFreeTier, request: Request) -> Grant:
        monkeypatch.setattr(AsyncFreeTier, "record_grant", grant)
        if lasting:
            raise InvalidInput("tier", request.tier, "a tier of the policy")
        raise StoreUnavailable("away")

    async def scenario() -> None:
        async with served(settings, work=work) as (api, _):
            session = f"/api/sessions/{await paid_session(api, 100, None)}"
            monkeypatch.setattr(AsyncFreeTier, "record_grant", away)
            new = {"id": "a-request-of-mine", "request": TEXT}
            answers = [await api.post(f"{session}/request", new) for _ in range(2)]
            statuses = [answer.status_code for answer in answers]
            assert statuses == ([200, 200] if lasting else [503, 200])
            assert answers[1].json()["state"] == ("failed" if lasting else "complete")
            assert (answers[1].json()["charged_sats"] > 0) is not lasting
            assert work.done == 1
            to = {"destination": "ada@example.org"}
            closed = (await api.post(f"{session}/close", to)).json()
            assert closed["refund"]["sats"] == 100 - answers[1].json()["charged_sats"]

    asyncio.run(scenario())


def test_a_session_whose_work_fails(play: Callable[..., None]) -> None:
    """A request whose work fails costs nothing, and leaves nothing held."""

    async def scenario(api: Api, service: Service) -> None:
        session = f"/api/sessions/{await paid_session(api, 100, None)}"
        done = (await api.post(f"{session}/request", {"request": TEXT})).json()
        assert (done["state"], done["error_message"]) == ("failed", "out of order")
        assert (await api.get(session)).json()["free_sats"] == 100

    play(scenario, work=Broken())


def test_a_session_that_is_paid_late(play: Callable[..., None]) -> None:
    """A deposit that is paid after its invoice expired is the caller's all the same."""

    async def scenario(api: Api, service: Service) -> None:
        opened = (await api.post("/api/sessions", {"deposit_sats": 50})).json()
        await asyncio.sleep(0.3)
        await service.round()
        path = f"/api/sessions/{opened['id']}"
        await api.until(path, "state", "expired")
        await api.pay(opened)
        assert (await api.until(path, "state", "active"))["balance_sats"] == 50

    play(scenario, invoice_ttl=timedelta(seconds=0.1))


def test_what_the_pool_has_is_promised_once(play: Callable[..., None]) -> None:
    """Many requests at once, of several sessions of an identity, are not all let in on one budget.

    However small their deposits are: what goes unpaid stays below one day's allowance.
    """

    async def scenario(api: Api, service: Service) -> None:
        opened = [await paid_session(api, 6, BOB) for _ in range(5)]
        body = {"request": "Just five words of text."}
        answers = await asyncio.gather(
            *(api.post(f"/api/sessions/{name}/request", body, BOB) for name in opened * 8)
        )
        assert {answer.status_code for answer in answers} == {200, 402}
        async with service.store.reading() as books:
            sql = "SELECT * FROM paid_session_requests"
            made = await books.select(books.tables.session_requests, sql, {})
        assert sum(request.unpaid_sats for request in made) <= LEFT
        assert sum(request.absorbed_sats for request in made) <= LEFT

    play(scenario, work=Slow())


@pytest.mark.parametrize("work", [Unkeepable, Broken])
def test_a_result_that_cannot_be_kept(
    play: Callable[..., None], work: type[Broken | Unkeepable]
) -> None:
    """A request whose work gives what no database takes has failed, and costs nothing."""

    async def scenario(api: Api, service: Service) -> None:
        session = f"/api/sessions/{await paid_session(api, 100, None)}"
        done = (await api.post(f"{session}/request", {"request": TEXT})).json()
        assert (done["state"], done["charged_sats"]) == ("failed", 0)
        assert "secret" not in done["error_message"]
        assert (await api.get(session)).json()["free_sats"] == 100

    play(scenario, work=work())


def test_what_is_known_is_answered_at_any_price(settings: Settings) -> None:
    """A request that was served is answered again, also when nothing can be priced any more."""

    async def scenario(api: Api, service: Service) -> None:
        session = f"/api/sessions/{await paid_session(api, 100, None)}"
        body = {"request": TEXT, "id": "request-1"}
        first = (await api.post(f"{session}/request", body)).json()
        service.sessions.settings = Stale(tiers=TIERS, policy=POLICY)
        assert (await api.post(f"{session}/request", {"request": TEXT})).status_code == 503
        assert (await api.post(f"{session}/request", body)).json() == first

    played(settings, scenario)


def test_closed_again(play: Callable[..., None]) -> None:
    """A closed session's refund may be told again where to go, and not somewhere else."""

    async def scenario(api: Api, service: Service) -> None:
        session = f"/api/sessions/{await paid_session(api, 100, None)}"
        for _ in range(2):
            answer = await api.post(f"{session}/close", {"destination": "bob@example.org"})
            assert (answer.status_code, answer.json()["refund"]["state"]) == (200, "paid")
        answer = await api.post(f"{session}/close", {"destination": "eve@example.org"})
        assert (answer.status_code, answer.json()["error"]) == (409, "IllegalTransition")

    play(scenario)
