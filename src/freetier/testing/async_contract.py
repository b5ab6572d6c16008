"""The same promises for an async store, called from outside its event loop.

A store's own test file is three lines: subclass `AsyncRepositoryContract`, and give a fixture
`opening`: an async context manager that gives an empty store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, TypeVar

import pytest

from freetier.repository import AsyncRepository, Repository
from freetier.service import AsyncFreeTier
from freetier.testing.clock import Clock
from freetier.testing.contract import POLICY, RepositoryContract
from freetier.values import Request

T = TypeVar("T")
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
        return _Blocking(AsyncFreeTier(POLICY, repository.it, clock=clock), repository.loop)

    def _race(self, ledger: Any, callers: Sequence[Sequence[Request]]) -> list[object]:
        async def call(requests: Sequence[Request]) -> None:
            for request in requests:
                await ledger.it.reserve(request)

        async def call_all() -> list[object]:
            done = await asyncio.gather(*map(call, callers), return_exceptions=True)
            return [error for error in done if error is not None]

        return ledger.wait(call_all())


class _Blocking:
    """The blocking face of an async object: each call waits until the loop has done it."""

    def __init__(self, it: object, loop: asyncio.AbstractEventLoop) -> None:
        self.it = it
        self.loop = loop

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.it, name)
        return lambda *args, **kwargs: self.wait(method(*args, **kwargs))

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()


@contextmanager
def blocking(opening: Opening) -> Iterator[Any]:
    """The blocking face of the store that `opening` gives; closed, and its loop ended, after."""
    opened: Future[_Blocking] = Future()
    closing = asyncio.Event()

    async def serve() -> None:
        async with opening as store:
            opened.set_result(_Blocking(store, asyncio.get_running_loop()))
            await closing.wait()

    with ThreadPoolExecutor(1) as thread:
        serving = thread.submit(asyncio.run, serve())
        wait((opened, serving), return_when=FIRST_COMPLETED)
        if not opened.done():
            serving.result()  # raises what kept the store from opening
        face = opened.result()
        try:
            yield face
        finally:
            face.loop.call_soon_threadsafe(closing.set)
            serving.result()
