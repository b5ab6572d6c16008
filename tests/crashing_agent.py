"""The example service in processes of its own, each killed by SIGKILL at a step that a test names.

One interpreter imports it all and forks a process for each line that it reads.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import uvicorn

from examples.paid_agent.app import create_app
from examples.paid_agent.paper import PaperNode
from examples.paid_agent.settings import Settings
from examples.paid_agent.store import Books, Store
from examples.paid_agent.work import Done, TextFacts, WorkFailed
from freetier import FreeTierPolicy

from .paid_agent import TIERS

POLICY = FreeTierPolicy(
    budgets={"new": 0, "established": 5, "elite": 500}, seed_sats=1000, credit_share_bp=5000
)
NODE_METHODS = ("invoice", "is_paid", "invoice_of", "pay")


class Broken(TextFacts):
    """Work that is accepted and then cannot be done."""

    async def do(self, request: str) -> Done:
        raise WorkFailed("out of order")


class Fuse:
    """Counts what is done to the books and to the node, and kills the process at a number."""

    def __init__(self, at: int | None) -> None:
        self.at = at
        self.steps = 0

    def step(self) -> None:
        self.steps += 1
        if self.steps == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def serve(order: dict[str, Any]) -> None:
    """Until it is killed. A step: about to commit, committed, about to ask the node, answered."""
    fuse = Fuse(order["crash_at"])
    writing = Store.writing

    @asynccontextmanager
    async def writing_until(self: Store) -> AsyncIterator[Books]:
        async with writing(self) as books:
            yield books
            fuse.step()
        fuse.step()

    Store.writing = writing_until  # type: ignore[method-assign]
    for name in NODE_METHODS:
        setattr(PaperNode, name, until(fuse, getattr(PaperNode, name)))
    settings = Settings(
        db=order["db"],
        tiers=TIERS,
        policy=POLICY,
        eval_sats=order["eval_sats"],
        poll=timedelta(seconds=order.get("poll_s", 0.05)),
    )
    work = Broken() if order["broken"] else TextFacts()
    uvicorn.run(create_app(settings, work=work), uds=order["socket"], log_level="critical")


def until(fuse: Fuse, method: Callable[..., Any]) -> Callable[..., Any]:
    async def counted(self: PaperNode, *arguments: Any) -> Any:
        fuse.step()
        answer = await method(self, *arguments)
        fuse.step()
        return answer

    return counted


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the killed
    for line in sys.stdin:
        if (process := os.fork()) == 0:
            try:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                serve(json.loads(line))
            finally:
                os._exit(1)
        print(process, flush=True)


if __name__ == "__main__":
    main()
