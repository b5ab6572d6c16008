"""Refunds to Lightning addresses: a caller's word makes the service reach no private host."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from examples.paid_agent import lnurl
from examples.paid_agent.lightning import NodeError
from examples.paid_agent.lnurl import invoice_of_address

from .paid_agent import on_a_port

PRIVATE = [
    "localhost",
    "127.0.0.1",
    "10.0.0.1",
    "169.254.169.254",
    "0.0.0.0",
    "2130706433",  # 127.0.0.1 as one number
    "0x7f.1",
]


@pytest.mark.parametrize("host", PRIVATE)
def test_a_private_host_is_not_asked(host: str) -> None:
    """An address at a host of this machine or of a private network is refused, by any spelling."""
    with pytest.raises(NodeError, match="not on the public internet"):
        asyncio.run(invoice_of_address(f"ada@{host}", 5))


@pytest.mark.parametrize(
    "number", ["::1", "::ffff:10.0.0.1", "2002:a00:1::", "fe80::1", "224.0.0.1"]
)
def test_a_name_that_leads_to_a_private_host(number: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One private number among those of a name is enough to refuse it, in every form."""
    family = socket.AF_INET6 if ":" in number else socket.AF_INET
    found = [(socket.AF_INET, ("1.1.1.1", 443)), (family, (number, 443))]

    async def resolved(*_: Any, **__: Any) -> list[Any]:
        return [(kind, socket.SOCK_STREAM, 6, "", address) for kind, address in found]

    async def ask() -> None:
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolved, raising=False)
        await invoice_of_address("ada@pay.example.org", 5)

    with pytest.raises(NodeError, match="not on the public internet"):
        asyncio.run(ask())


@pytest.mark.parametrize(
    "address", ["ada@pay.example.org:8443", "ada@user@pay.example.org", "ada@[::1]", "ada"]
)
def test_what_is_more_than_a_name(address: str) -> None:
    """A port, a user or a number in brackets is refused before anything is resolved."""
    with pytest.raises(NodeError, match=r"names a port|no Lightning address"):
        asyncio.run(invoice_of_address(address, 5))


def asked(answer: Callable[[Request], Response], sats: int = 5) -> str:
    """What an address gives whose host, on loopback, answers so."""

    async def run() -> str:
        app = Starlette(routes=[Route("/{path:path}", answer)])
        async with on_a_port(app) as url:
            host = url.removeprefix("http://")
            return await invoice_of_address(f"ada@{host}", sats, plain=True)

    return asyncio.run(run())


def offer(request: Request, **changes: Any) -> dict[str, Any]:
    terms = {"minSendable": 1000, "maxSendable": 9000, "callback": f"{request.base_url}pay"}
    return terms | changes


def test_an_invoice_of_an_address() -> None:
    """The host is asked for its terms, then for an invoice of that amount in millisats."""

    def answer(request: Request) -> Response:
        if request.url.path == "/.well-known/lnurlp/ada":
            return JSONResponse(offer(request))
        return JSONResponse({"pr": f"lnbc-{request.query_params['amount']}"})

    assert asked(answer) == "lnbc-5000"


WRONG: list[Callable[[Request], Response]] = [
    lambda request: JSONResponse(offer(request, minSendable=6000)),
    lambda request: JSONResponse(offer(request, maxSendable=4000)),
    lambda request: JSONResponse(offer(request, maxSendable="9000")),
    lambda request: JSONResponse(offer(request, callback="ftp://example.org/")),
    lambda request: JSONResponse(offer(request, callback="http://[")),
    lambda request: JSONResponse({"status": "ERROR"}),
    lambda request: JSONResponse([]),
    lambda request: Response("no JSON"),
    lambda request: Response("x" * 100_000),
    lambda request: RedirectResponse("/elsewhere"),
    lambda request: Response(status_code=404),
]


@pytest.mark.parametrize("answer", WRONG)
def test_a_host_that_answers_wrongly(answer: Callable[[Request], Response]) -> None:
    """Whatever a host answers, the refund waits: it is never another error."""
    with pytest.raises(NodeError):
        asked(answer)


def test_a_host_that_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it together has one deadline, however little each part of an answer takes."""
    monkeypatch.setattr(lnurl, "_PATIENCE_S", 0.5)

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        with closing(writer):
            for _ in range(100):
                writer.write(b" ")
                await asyncio.sleep(0.1)

    async def ask() -> None:
        server = await asyncio.start_server(drip, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            await invoice_of_address(f"ada@127.0.0.1:{port}", 5, plain=True)
        finally:
            server.close()

    with pytest.raises(NodeError, match="TimeoutError"):
        asyncio.run(ask())
