"""The Starlette layer: an error or a bill that an endpoint raises is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from freetier import Conflict, FreeTierError, IllegalTransition, InvalidInput, Snapshot, errors
from freetier.invoices import Invoice
from freetier.policy import FreeTierPolicy
from freetier.starlette import PaymentRequired, add_handlers, on_error
from freetier.values import Request as Asked

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DECISION = FreeTierPolicy().decide(Asked("a", "ada", "trusted", 240), Snapshot(NOW, 1000))


def raising(error: Exception) -> Callable[[Request], Response]:
    def endpoint(_: Request) -> Response:
        raise error

    return endpoint


def answered(error: Exception) -> httpx.Response:
    """What an app answers whose endpoint raises it."""
    return asyncio.run(answer_to(error))


async def answer_to(error: Exception, host: str = "host") -> httpx.Response:
    app = Starlette(routes=[Route("/jobs", raising(error))])
    add_handlers(app)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://host") as client:
        return await client.get("/jobs", headers={"Host": host})


@pytest.mark.parametrize(
    ("error", "status"),
    [(Conflict("used"), 409), (IllegalTransition("ended"), 409), (errors.StoreFull("disk"), 503)],
    ids=repr,
)
def test_an_error_is_answered(error: FreeTierError, status: int) -> None:
    """An error of the library, and each of its children, is a problem about the path it was on."""
    response = answered(error)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["error"] == type(error).__name__
    assert response.json()["instance"] == "/jobs"


@pytest.mark.parametrize("host", ["[", "host/elsewhere?x="])
def test_a_host_field_says_nothing(host: str) -> None:
    """What a problem is about is the path that was asked for, whatever the Host field says."""
    response = asyncio.run(answer_to(Conflict("used"), host))
    assert (response.status_code, response.json()["instance"]) == (409, "/jobs")


def test_a_bill_is_answered() -> None:
    """A bill that is raised is 402, with the invoice."""
    response = answered(PaymentRequired(DECISION, Invoice("hash", "lnbc1", 40, NOW)))
    assert response.status_code == 402
    assert response.json()["invoice"] == "lnbc1"
    with pytest.raises(InvalidInput):
        PaymentRequired(DECISION, Invoice("hash", "lnbc1", 41, NOW))


def test_what_breaks_inside_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An answer of 500 or above says nothing of the error; the log says all of it."""
    answered(errors.StoreFull("the disk of /srv"))
    answered(Conflict("not for the log"))
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("freetier.starlette", "ERROR")
    assert "the disk of /srv" in caplog.text


def test_another_error_is_not_hidden() -> None:
    """A handler that is registered for what it does not know raises it again."""

    async def answer() -> None:
        request = Request({"type": "http", "path": "/", "headers": []})
        await on_error(request, ZeroDivisionError("other"))

    with pytest.raises(ZeroDivisionError):
        asyncio.run(answer())
