"""The example service on a real LNbits: both books agree to the sat, whatever happened between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from attrs import evolve
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from examples.paid_agent.app import create_app
from examples.paid_agent.desk import now
from examples.paid_agent.lightning import NodeError, Outcome
from examples.paid_agent.lnbits import LNbitsNode
from examples.paid_agent.service import Service
from examples.paid_agent.settings import Settings
from examples.paid_agent.store import opened
from freetier import FreeTierPolicy, Kind
from freetier.invoices import Invoice

from .lnbits_server import LNbits, Wallet, host
from .paid_agent import ADA, BOB, TEXT, TIERS, Api, on_a_port

pytestmark = [pytest.mark.lnbits, pytest.mark.timeout(600)]
POLICY = FreeTierPolicy(
    budgets={"new": 0, "established": 5, "elite": 500}, seed_sats=1000, credit_share_bp=5000
)
PRICE = 13
EXTENSION = Path(__file__).parent / "lnbits_extension"


@pytest.fixture(scope="module")
def lnbits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LNbits]:
    with host(tmp_path_factory.mktemp("lnbits"), EXTENSION, "ft").serve() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgres"])
def settings(request: pytest.FixtureRequest, tmp_path: Path, lnbits: LNbits) -> Settings:
    url = (
        f"sqlite:///{tmp_path / 'agent.db'}"
        if request.param == "sqlite"
        else str(request.getfixturevalue("postgres_dsn"))
    )
    return Settings(
        db=url,
        lnbits_url=lnbits.base_url,
        lnbits_key=lnbits.operator.adminkey,
        plain_addresses=True,
        tiers=TIERS,
        policy=POLICY,
        poll=timedelta(hours=1),  # what is heard is heard by the webhook
    )


@asynccontextmanager
async def agent(settings: Settings) -> AsyncIterator[tuple[Api, Service]]:
    """The service, on a port; its webhook is where LNbits finds it."""
    app: FastAPI = create_app(settings)
    async with on_a_port(app) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
        service: Service = app.state.service
        service.settings = service.jobs.settings = evolve(settings, url=url)
        assert isinstance(service.node, LNbitsNode)
        service.node._webhook = f"{url}/api/lightning/notice"
        yield Api(client, url), service


def sats(lnbits: LNbits, wallet: Wallet) -> int:
    balance: int = lnbits.call(wallet, "GET", "/api/v1/wallet")["balance"]
    return balance // 1000


def payments(lnbits: LNbits) -> list[Any]:
    found: list[Any] = lnbits.call(lnbits.operator, "GET", "/api/v1/payments?limit=1000")
    return found


async def pay(lnbits: LNbits, thing: dict[str, Any]) -> None:
    await asyncio.to_thread(lnbits.pay, thing["invoice"]["bolt11"])


async def invoice_of_caller(lnbits: LNbits, amount: int) -> str:
    body = {"out": False, "amount": amount, "unit": "sat", "memo": "refund"}
    made = await asyncio.to_thread(lnbits.call, lnbits.caller, "POST", "/api/v1/payments", body)
    return str(made["bolt11"])


@asynccontextmanager
async def address_of_caller(lnbits: LNbits) -> AsyncIterator[str]:
    """A Lightning address (LUD-16) that leads into the caller's wallet."""
    base: list[str] = []

    async def offer(_: Request) -> JSONResponse:
        callback = f"{base[0]}/callback"
        return JSONResponse(
            {"tag": "payRequest", "callback": callback, "minSendable": 1000, "maxSendable": 10**9}
        )

    async def callback(request: Request) -> JSONResponse:
        amount = int(request.query_params["amount"]) // 1000
        return JSONResponse({"pr": await invoice_of_caller(lnbits, amount), "routes": []})

    app = Starlette(
        routes=[Route("/.well-known/lnurlp/caller", offer), Route("/callback", callback)]
    )
    async with on_a_port(app) as url:
        base.append(url)
        yield f"caller@{url.removeprefix('http://')}"


Scenario = Callable[[Api, Service], Coroutine[Any, Any, None]]


@pytest.fixture
def play(settings: Settings, lnbits: LNbits) -> Callable[[Scenario], None]:
    """Plays a scenario; then the ledger is proven, and both services' books are compared."""

    def play(scenario: Scenario, **changes: Any) -> None:
        before = sats(lnbits, lnbits.operator), sats(lnbits, lnbits.caller), len(payments(lnbits))

        async def run() -> None:
            changed = evolve(settings, **changes)
            async with agent(changed) as (api, service):
                await scenario(api, service)
            async with opened(changed.db, POLICY) as store, store.reading() as books:
                report = await books.ledger.verify()
                assert report.ok, report
                tables = books.tables
                jobs = await books.select(tables.jobs, "SELECT * FROM paid_jobs", {})
                sessions = await books.select(tables.sessions, "SELECT * FROM paid_sessions", {})
                invoices = [job.eval_invoice for job in jobs] + [job.work_invoice for job in jobs]
                invoices += [session.invoice for session in sessions]
                paid = sum(made.amount_sats for made in invoices if made and made.paid_at)
                refunds = [job.refund for job in jobs] + [session.refund for session in sessions]
                back = sum(refund.sats for refund in refunds if refund.state == "paid")
                assert sats(lnbits, lnbits.operator) - before[0] == paid - back
                assert sats(lnbits, lnbits.caller) - before[1] == back - paid
                ours = [made for made in invoices if made] + [r for r in refunds if r.payment_hash]
                assert len(payments(lnbits)) - before[2] == len(ours)
                charged = sum(job.paid_sats - job.refund.sats for job in jobs)
                entries = [entry async for entry in books.ledger.journal()]
                credited = {e.key: e.paid_sats for e in entries if e.kind is Kind.CREDIT}
                of_jobs = {j.work_invoice.id for j in jobs if j.work_invoice}
                in_the_end = sum(sum_ or 0 for key, sum_ in credited.items() if key in of_jobs)
                assert in_the_end == charged

        asyncio.run(run())

    return play


def test_free(play: Callable[..., None]) -> None:
    """A free job touches LNbits not at all."""

    async def scenario(api: Api, service: Service) -> None:
        job = await api.job(ADA)
        assert job["invoice"] is None
        await api.until(f"/api/jobs/{job['id']}", "state", "complete", secret=ADA)

    play(scenario)


def test_partial_with_a_refund_to_an_invoice(play: Callable[..., None], lnbits: LNbits) -> None:
    """LNbits' webhook brings the job on, and the refund pays the caller's own invoice, once."""

    async def scenario(api: Api, service: Service) -> None:
        job = await api.job(BOB)
        assert job["invoice"]["amount_sats"] == PRICE - 5
        await pay(lnbits, job)
        path = f"/api/jobs/{job['id']}"
        done = await api.until(path, "state", "complete", secret=BOB)
        owed = done["refund"]["sats"]
        wrong = await invoice_of_caller(lnbits, owed + 1)
        waits = await api.post(f"{path}/refund", {"destination": wrong}, BOB)
        assert waits.json()["next_step"] == "refund"
        right = await invoice_of_caller(lnbits, owed)
        answer = await api.post(f"{path}/refund", {"destination": right}, BOB)
        assert (answer.json()["refund"]["state"], answer.json()["next_step"]) == ("paid", None)
        again = await api.post(f"{path}/refund", {"destination": wrong}, BOB)
        assert (again.status_code, again.json()["error"]) == (409, "IllegalTransition")

    play(scenario)


def test_gate_with_a_refund_to_an_address(play: Callable[..., None], lnbits: LNbits) -> None:
    """An anonymous caller pays in full, and gets what was too much at a Lightning address."""

    async def scenario(api: Api, service: Service) -> None:
        async with address_of_caller(lnbits) as address:
            job = await api.job(refund_to=address)
            assert job["invoice"]["amount_sats"] == PRICE
            await pay(lnbits, job)
            done = await api.until(f"/api/jobs/{job['id']}", "next_step", None)
        assert done["state"] == "complete"
        assert done["refund"]["state"] == "paid"

    play(scenario)


def test_a_webhook_that_comes_often(play: Callable[..., None], lnbits: LNbits) -> None:
    """The webhook may come any number of times, true or not: one credit, one settlement."""

    async def scenario(api: Api, service: Service) -> None:
        job = await api.job(BOB)
        notice = {"payment_hash": job["invoice"]["payment_hash"]}
        await api.post("/api/lightning/notice", notice)  # a lie
        assert (await api.get(f"/api/jobs/{job['id']}", BOB)).json()["next_step"] == "payment"
        await pay(lnbits, job)
        for _ in range(3):
            await api.post("/api/lightning/notice", notice)
        await api.until(f"/api/jobs/{job['id']}", "state", "complete", secret=BOB)
        await api.post("/api/lightning/notice", notice)
        await service.round()

    play(scenario)


def test_paid_while_nobody_listened(
    settings: Settings, play: Callable[..., None], lnbits: LNbits
) -> None:
    """What was paid while the service was down is found when it starts."""

    async def before() -> dict[str, Any]:
        async with agent(settings) as (api, _):
            return await api.job(BOB)

    paid_before = asyncio.run(before())
    lnbits.pay(paid_before["invoice"]["bolt11"])

    async def run() -> None:
        async with agent(settings) as (api, _):
            path = f"/api/jobs/{paid_before['id']}"
            await api.until(path, "state", "complete", secret=BOB)

    asyncio.run(run())


class Lenient(LNbitsNode):
    """A node that takes a payment a while after the invoice has expired, as some do."""

    async def invoice(self, key: str, sats: int, ttl: timedelta, memo: str) -> Invoice:
        made = await super().invoice(key, sats, ttl + timedelta(minutes=1), memo)
        return evolve(made, expires_at=now() + ttl)


def test_expired_and_then_paid(play: Callable[..., None], lnbits: LNbits) -> None:
    """A job that had failed for want of its payment is done when that comes after all."""

    async def scenario(api: Api, service: Service) -> None:
        node = service.node
        assert isinstance(node, LNbitsNode)
        node.__class__ = Lenient
        job = await api.job(BOB)
        await asyncio.sleep(1.2)
        await service.round()
        path = f"/api/jobs/{job['id']}"
        assert (await api.get(path, BOB)).json()["state"] == "failed"
        await pay(lnbits, job)
        done = await api.until(path, "state", "complete", secret=BOB)
        assert done["absorbed_sats"] == 5

    second = timedelta(seconds=1)
    play(scenario, invoice_ttl=second, work_time=timedelta(seconds=0.1))


def test_a_session(play: Callable[..., None], lnbits: LNbits) -> None:
    """A deposit in, requests from it, and the rest back."""

    async def scenario(api: Api, service: Service) -> None:
        opened = (await api.post("/api/sessions", {"deposit_sats": 100}, BOB)).json()
        await pay(lnbits, opened)
        path = f"/api/sessions/{opened['id']}"
        await api.until(path, "state", "active", secret=BOB)
        for number in range(3):
            body = {"request": TEXT, "id": f"request-{opened['id'][:8]}-{number}"}
            assert (await api.post(f"{path}/request", body, BOB)).json()["state"] == "complete"
        rest = (await api.get(path, BOB)).json()["balance_sats"]
        to = await invoice_of_caller(lnbits, rest)
        closed = (await api.post(f"{path}/close", {"destination": to}, BOB)).json()
        assert closed["refund"]["state"] == "paid"

    play(scenario)


def test_one_invoice_a_key(settings: Settings, lnbits: LNbits) -> None:
    """However often and at once a key's invoice is asked for, LNbits has one, found by its key."""

    async def run() -> None:
        node = LNbitsNode(lnbits.base_url, lnbits.operator.adminkey, "http://127.0.0.1:9/")
        key = f"key-{now().timestamp()}"
        ask = partial(node.invoice, key, 21, timedelta(hours=1), "x")
        made = await asyncio.gather(*(ask() for _ in range(5)))
        assert len({invoice.id for invoice in made}) == 1
        assert await node.key_of(made[0].id) == key
        assert (await node.is_paid(made[0].id), await node.is_paid("0" * 64)) == (False, False)
        assert await node.key_of("0" * 64) is None
        await node.close()

    asyncio.run(run())


def test_a_payment_out_is_made_once(settings: Settings, lnbits: LNbits) -> None:
    """Paying again says how the first payment went; what cannot be paid is not taken for paid."""

    async def run() -> None:
        node = LNbitsNode(lnbits.base_url, lnbits.operator.adminkey, "http://127.0.0.1:9/")
        funds = await node.invoice(f"funds-{now().timestamp()}", 50, timedelta(hours=1), "x")
        await asyncio.to_thread(lnbits.pay, funds.bolt11)
        start = sats(lnbits, lnbits.operator)
        bolt11, payment_hash = await node.invoice_of(await invoice_of_caller(lnbits, 7), 7)
        outcomes = [await node.pay(bolt11, payment_hash) for _ in range(3)]
        assert outcomes == [Outcome.PAID] * 3
        assert sats(lnbits, lnbits.operator) == start - 7
        own = await node.invoice(f"own-{now().timestamp()}", 5, timedelta(hours=1), "x")
        assert await node.pay(own.bolt11, own.id) is Outcome.PAID  # from the wallet to itself
        assert (await node.is_paid(own.id), await node.pay(own.bolt11, own.id)) == (True, "paid")
        dear, dear_hash = await node.invoice_of(await invoice_of_caller(lnbits, 90_000), 90_000)
        with pytest.raises(NodeError):
            await node.pay(dear, dear_hash)
        with pytest.raises(NodeError):
            await node.invoice_of("no invoice at all", 5)
        await node.close()

    asyncio.run(run())
