"""The port to LNbits when LNbits does not answer, says no, or finds more than it was asked for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest
from attrs import define, field

from examples.paid_agent.lightning import NodeError, Outcome
from examples.paid_agent.lnbits import ON_THE_WAY_S, LNbitsNode

BOLT11, HASH = "lnbc-of-the-caller", "ab" * 32


@define
class Stub:
    """LNbits' answers over HTTP, to what the port asks. It looks at no parameter of a search."""

    pay: Callable[[], httpx.Response]
    expired_s_ago: float = -3600
    payments: list[dict[str, Any]] = field(factory=list)

    def node(self) -> LNbitsNode:
        transport = httpx.MockTransport(self._answer)
        return LNbitsNode("http://lnbits", "key", "http://webhook/", transport=transport)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/decode"):
            date = time.time() - self.expired_s_ago - 60
            return httpx.Response(200, json={"payment_hash": HASH, "date": date, "expiry": 60})
        if request.method == "GET":
            return httpx.Response(200, json=self.payments)
        return self.pay()


def unanswered() -> httpx.Response:
    raise httpx.ReadTimeout("no answer")


def refused() -> httpx.Response:
    return httpx.Response(520, json={"detail": "no route"})


@pytest.mark.parametrize(
    ("pay", "expired_s_ago", "failed"),
    [
        (refused, ON_THE_WAY_S + 60, True),
        (refused, ON_THE_WAY_S - 60, False),
        (refused, -60, False),
        (unanswered, ON_THE_WAY_S + 60, False),
    ],
)
def test_when_a_payment_has_failed(
    pay: Callable[[], httpx.Response], expired_s_ago: float, failed: bool
) -> None:
    """A payment failed for good when LNbits said no, and no call under way could pay any more.

    Else it may still be paid, and another one would pay twice.
    """
    node = Stub(pay, expired_s_ago).node()
    if failed:
        assert asyncio.run(node.pay(BOLT11, HASH)) is Outcome.FAILED
    else:
        with pytest.raises(NodeError):
            asyncio.run(node.pay(BOLT11, HASH))


def test_what_was_not_asked_for_is_not_taken() -> None:
    """A payment of another hash, and an invoice of another key, are not the ones that were sought.

    An LNbits that does not know a search's parameter answers with all that it has.
    """
    another = {
        "payment_hash": "cd" * 32,
        "external_id": "another-key",
        "amount": 5000,
        "status": "success",
        "bolt11": BOLT11,
    }
    mine = {**another, "payment_hash": HASH, "external_id": "my-key"}
    stub = Stub(lambda: httpx.Response(201, json=mine), payments=[another])
    assert not asyncio.run(stub.node().is_paid(HASH))
    assert asyncio.run(stub.node().key_of(HASH)) is None
    made = asyncio.run(stub.node().invoice("my-key", 5, timedelta(hours=1), "memo"))
    assert made.id == HASH
