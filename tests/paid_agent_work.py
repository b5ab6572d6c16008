"""What goes wrong around the example service: work that fails in all its ways, a stale price."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from attrs import evolve

from examples.paid_agent.desk import now
from examples.paid_agent.settings import Settings
from examples.paid_agent.work import Done, TextFacts, Verdict, WorkFailed
from freetier.pricing import BtcPrice


class Broken(TextFacts):
    """Work that is accepted and then cannot be done."""

    async def do(self, request: str) -> Done:
        raise WorkFailed("out of order")


class Raising(TextFacts):
    """Work that breaks in a way that nobody thought of."""

    async def do(self, request: str) -> Done:
        raise TimeoutError("a secret of the host's")


class Counted(TextFacts):
    """Work that knows how often it was done."""

    def __init__(self) -> None:
        self.done = 0

    async def do(self, request: str) -> Done:
        self.done += 1
        return await super().do(request)


class Mute(TextFacts):
    """Work that fails without a word."""

    async def do(self, request: str) -> Done:
        raise WorkFailed("\0 ")


class Curt(TextFacts):
    """Work that is refused without a word."""

    def expect(self, request: str) -> Verdict:
        return Verdict("", 0, 0)


class Endless(TextFacts):
    async def do(self, request: str) -> Done:
        await asyncio.sleep(3600)
        raise AssertionError


class Slow(TextFacts):
    async def do(self, request: str) -> Done:
        await asyncio.sleep(1)
        return await super().do(request)


class Dear(TextFacts):
    """Work that takes more than it was expected to."""

    async def do(self, request: str) -> Done:
        done = await super().do(request)
        return evolve(done, output_tokens=500)


class Choosy(TextFacts):
    def expect(self, request: str) -> Verdict:
        return Verdict("not our kind of work", 0, 0)


class Unkeepable(TextFacts):
    """Work whose result no database takes."""

    async def do(self, request: str) -> Done:
        done = await super().do(request)
        return evolve(done, result="nothing\0less")


class Unexpected(TextFacts):
    """Work whose evaluation breaks."""

    def expect(self, request: str) -> Verdict:
        raise KeyError("a secret of the host's")


class Stale(Settings):
    """Settings whose bitcoin price is too old to sell by."""

    def btc_price(self) -> BtcPrice:
        price = super().btc_price()
        return evolve(price, at=now() - timedelta(hours=1))
