"""The example service as its callers see it: in this process, on a real database."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from attrs import evolve, frozen
from starlette.applications import Starlette

from examples.paid_agent.app import create_app
from examples.paid_agent.lightning import Node
from examples.paid_agent.service import Service
from examples.paid_agent.settings import Settings
from examples.paid_agent.work import Work
from freetier import FreeTierPolicy, Kind

from .nostr_signer import header, proof, pubkey_of

ADA, BOB, CYD = (bytes(31) + bytes([number]) for number in (11, 12, 13))
TIERS = {pubkey_of(ADA): "elite", pubkey_of(BOB): "established", pubkey_of(CYD): "new"}
TEXT = "The pool pays what it can, and the caller pays the rest of it. " * 4
PATIENCE_S = 20
PRICE = 13  # of TEXT, in sats
LEFT = 5  # of them a day from the pool, for BOB
POLICY = FreeTierPolicy(
    budgets={"new": 0, "established": LEFT, "elite": 500}, seed_sats=1000, credit_share_bp=5000
)
_nonces = count()


@frozen
class Api:
    """The API, as a caller that may have a key uses it."""

    http: httpx.AsyncClient
    url: str

    async def post(self, path: str, body: object, secret: bytes | None = None) -> httpx.Response:
        content = json.dumps(body).encode()
        signed = self.authorization("POST", path, content, secret)
        return await self.http.post(
            path, content=content, headers={"Content-Type": "application/json", **signed}
        )

    async def get(self, path: str, secret: bytes | None = None) -> httpx.Response:
        return await self.http.get(path, headers=self.authorization("GET", path, b"", secret))

    def authorization(
        self, method: str, path: str, body: bytes, secret: bytes | None
    ) -> dict[str, str]:
        if secret is None:
            return {}
        hashes = [["payload", sha256(body).hexdigest()]] if body else []
        tags = [["u", self.url + path], ["method", method], *hashes, ["nonce", str(next(_nonces))]]
        event = proof(created_at=int(time.time()), tags=tags, secret=secret)
        return {"Authorization": header(event)}

    async def job(self, secret: bytes | None = None, **body: object) -> dict[str, Any]:
        """A new job, as it is answered."""
        response = await self.post("/api/jobs", {"request": TEXT, **body}, secret)
        assert response.status_code in (200, 201), response.text
        answer: dict[str, Any] = response.json()
        return answer

    async def until(
        self, path: str, member: str, *values: object, secret: bytes | None = None
    ) -> dict[str, Any]:
        """What is at the path once its member has one of the values."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            response = await self.get(path, secret)
            assert response.status_code == 200, response.text
            answer: dict[str, Any] = response.json()
            if answer[member] in values:
                return answer
            await asyncio.sleep(0.01)
        raise AssertionError(f"{path} is not {values}: {answer}")

    async def pay(self, thing: dict[str, Any]) -> None:
        """Pay the invoice of a job or a session, on paper."""
        payment_hash = thing["invoice"]["payment_hash"]
        response = await self.post(f"/api/paper/{payment_hash}/pay", {})
        assert response.status_code == 202, response.text


@asynccontextmanager
async def served(
    settings: Settings, *, node: Node | None = None, work: Work | None = None
) -> AsyncIterator[tuple[Api, Service]]:
    """The service, started and stopped, without a port."""
    app = create_app(settings, node=node, work=work)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=settings.url) as client:
            yield Api(client, settings.url), app.state.service


@asynccontextmanager
async def on_a_port(app: Starlette) -> AsyncIterator[str]:
    """The app on a port of this machine that was free."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="on"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
        assert not serving.done(), "it did not start"
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await serving


Scenario = Callable[[Api, Service], Coroutine[Any, Any, None]]


def played(settings: Settings, scenario: Scenario, **changes: Any) -> None:
    """Play a scenario on the service, with other settings, and then look into its books."""
    node, work = changes.pop("node", None), changes.pop("work", None)

    async def run() -> None:
        async with served(evolve(settings, **changes), node=node, work=work) as (api, service):
            await scenario(api, service)
            await service.round()
            async with service.store.reading() as books:
                report = await books.ledger.verify()
            assert report.ok, report

    asyncio.run(run())


def started(request: pytest.FixtureRequest, folder: Path) -> Settings:
    """On an empty database, of the kind that `request.param` names; rounds begin when asked for."""
    url = (
        f"sqlite:///{folder / 'agent.db'}"
        if request.param == "sqlite"
        else str(request.getfixturevalue("postgres_dsn"))
    )
    return Settings(db=url, tiers=TIERS, policy=POLICY, poll=timedelta(hours=1))


async def entries(service: Service, *kinds: Kind) -> list[tuple[str, int]]:
    """The keys and the amounts of the journal's entries of some kinds."""
    async with service.store.reading() as books:
        journal = [entry async for entry in books.ledger.journal()]
    return [
        (entry.key, entry.balance_change or entry.absorb_sats or 0)
        for entry in journal
        if entry.kind in kinds
    ]


async def paid_session(api: Api, deposit_sats: int, secret: bytes | None) -> str:
    body = {"deposit_sats": deposit_sats}
    opened = (await api.post("/api/sessions", body, secret)).json()
    await api.pay(opened)
    await api.until(f"/api/sessions/{opened['id']}", "state", "active", secret=secret)
    return str(opened["id"])
