"""The same promises for an async store, called from outside its event loop.

A store's own test file is three lines: subclass `AsyncRepositoryContract`, and give a fixture
`opening`: an async context manager that gives an empty store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractAsyncContextManager, contextmanager
from itertools import chain
from typing import Any

import pytest

from freetier.entries import Grant
from freetier.repository import AsyncRepository, Repository
from freetier.service import AsyncFreeTier
from freetier.testing.clock import Clock
from freetier.testing.contract import POLICY, RepositoryContract
from freetier.values import Request

Opening = AbstractAsyncContextManager[AsyncRepository]


class AsyncRepositoryContract(RepositoryContract):
    """Every promise of the port, held by the tests of `RepositoryContract`.

    The store is opened, called and closed on an event loop in a thread of its own.
    """

    @pytest.fixture
    def opening(self) -> Opening:
        """An async context manager that gives an empty store, migrated and not seeded."""
        raise NotImplementedError("give a fixture `opening`: it opens an empty store when entered")

    @pytest.fixture
    def repository(self, opening: Opening) -> Iterator[Repository]:
        """The store's blocking face."""
        with blocking(opening) as repository:
            yield repository

    def _ledger(self, repository: Any, clock: Clock) -> Any:
        return Blocking(AsyncFreeTier(POLICY, repository.target, clock=clock), repository.loop)

    def _race(self, ledger: Any, callers: Sequence[Sequence[Request]]) -> list[Grant]:
        async def call(requests: Sequence[Request]) -> list[Grant]:
            return [await ledger.target.reserve(request) for request in requests]

        async def call_all() -> list[list[Grant]]:
            async with asyncio.TaskGroup() as tasks:
                calls = [tasks.create_task(call(requests)) for requests in callers]
            return [task.result() for task in calls]

        return list(chain.from_iterable(ledger.wait(call_all())))


class Blocking:
    """The blocking face of an async object: each call waits until the loop has done it."""

    def __init__(self, target: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.target = target
        self.loop = loop

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.target, name)
        return lambda *args, **kwargs: self.wait(method(*args, **kwargs))

    def wait(self, given: Any) -> Any:
        """What an awaitable gives; all that an async iterator gives, as a list."""

        async def waiting() -> Any:
            return [row async for row in given] if hasattr(given, "__aiter__") else await given

        return asyncio.run_coroutine_threadsafe(waiting(), self.loop).result()


@contextmanager
def blocking(opening: Opening) -> Iterator[Any]:
    """The blocking face of the store that `opening` gives; closed, and its loop ended, after."""
    opened: Future[Any] = Future()
    closing = asyncio.Event()

    async def serve() -> None:
        async with opening as store:
            opened.set_result(Blocking(store, asyncio.get_running_loop()))
            await closing.wait()

    with ThreadPoolExecutor(1) as thread:
        serving: Future[Any] = thread.submit(asyncio.run, serve())
        wait((opened, serving), return_when=FIRST_COMPLETED)
        if not opened.done():
            serving.result()  # raises what kept the store from opening
        face = opened.result()
        try:
            yield face
        finally:
            face.loop.call_soon_threadsafe(closing.set)
            serving.result()
