"""An operation as steps on a store, and the two loops that run it. No rule lives here.

The steps of an operation are a generator. It yields steps (a step is a call on the repository), is
sent what the step gave, or meets what it raised, and returns the operation's result. Blocking and
async hosts run the same generator: they call and wait, and decide nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, Generic, TypeVar

from attrs import frozen

T = TypeVar("T")
Step = Callable[[Any], Any]
Steps = Generator[Step, Any, T]


@frozen
class Operation(Generic[T]):
    """What a caller asked for. A store that undid a try begins it again: `begin` makes new steps.

    `writes` is False where no step writes anything.
    """

    begin: Callable[[], Steps[T]]
    writes: bool


def ask(step: Callable[[Any], T]) -> Steps[T]:
    """The steps of an operation that has one."""
    given: T = yield step
    return given


def perform(steps: Steps[T], store: object) -> T:
    """Run an operation's steps on a blocking store; its result, or what it raises."""
    try:
        step = next(steps)
        while True:
            try:
                given = step(store)
            except Exception as error:
                step = steps.throw(error)
            else:
                step = steps.send(given)
    except StopIteration as done:
        result: T = done.value
        return result


async def perform_async(steps: Steps[T], store: object) -> T:
    """Run an operation's steps on an async store; its result, or what it raises."""
    try:
        step = next(steps)
        while True:
            try:
                waiting: Awaitable[Any] = step(store)
                given = await waiting
            except Exception as error:
                step = steps.throw(error)
            else:
                step = steps.send(given)
    except StopIteration as done:
        result: T = done.value
        return result
