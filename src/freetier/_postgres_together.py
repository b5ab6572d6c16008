"""Several callers' statements as one on Postgres: one trip, one wait for the pool, one flush."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from typing import Any, Protocol

from freetier._fork import ForkGuard
from freetier._gathering import Call, Gathering, Others
from freetier._gathering_async import Tasks
from freetier._postgres_text import numbered
from freetier._sql import DRAW, LOOK, Query
from freetier._sql_many import LANES, asked, lane, parted
from freetier.errors import FreeTierError, OutcomeUnknown, StoreFull, StoreUnavailable
from freetier.steps import Step, Steps, perform, perform_async

Rows = Sequence[Sequence[Any]]
Answer = Rows | FreeTierError
Statement = tuple[str, Sequence[Any]]

_HALVED_FROM = 16
"""Of fewer than so many, a half is not worth a statement of its own."""
# What befalls the database befalls all; of anything else a single one may be the cause.
_ALL_ALIKE = (StoreUnavailable, OutcomeUnknown, StoreFull)


class Fetch(Protocol):
    def __call__(self, text: str, arguments: Sequence[Any], *, writes: bool) -> Rows: ...


class FetchAsync(Protocol):
    def __call__(self, text: str, arguments: Sequence[Any], *, writes: bool) -> Awaitable[Rows]: ...


def single(query: Query[Any], schema: str) -> Statement:
    """The text and the arguments of a query asked by itself."""
    text, names = numbered(query.text, schema)
    return text, [query.params[name] for name in names]


class ThreadsTogether:
    """The queries of several threads, as if each were asked alone.

    fetch: asks, on connections of the library's own.
    """

    def __init__(self, fetch: Fetch, schema: str) -> None:
        self._fetch = fetch
        self._schema = schema
        self._lanes = {text: Gathering(self._alone, self._do) for text in LANES}
        self._fork = ForkGuard()

    def fetch(self, query: Query[Any]) -> Rows:
        """The query's rows."""
        self._fork.check()  # in a child, who leads is not there
        text = lane(query)
        rows: Rows = self._alone(query) if text is None else self._lanes[text].do(query)
        return rows

    def _alone(self, query: Query[Any]) -> Rows:
        return self._fetch(*single(query, self._schema), writes=query.writes)

    def _do(self, first: Call[Query[Any]], others: Others[Query[Any]]) -> None:
        calls = [first, *others()]
        for call, answer in zip(calls, self._answers([call.wanted for call in calls]), strict=True):
            call.attempt(_giving(answer))

    def _answers(self, queries: Sequence[Query[Any]]) -> Sequence[Answer]:
        return perform(_answers(queries, self._schema), self._fetch)


class TasksTogether:
    """`ThreadsTogether`, for the tasks of one event loop."""

    def __init__(self, fetch: FetchAsync, schema: str) -> None:
        self._fetch = fetch
        self._schema = schema
        self._lanes = {text: Tasks(self._alone, self._answers) for text in LANES}
        self._lanes[LOOK] = Tasks(self._alone, self._answers, self._share)
        self._fork = ForkGuard()

    async def fetch(self, query: Query[Any]) -> Rows:
        """The query's rows."""
        self._fork.check()
        text = lane(query)
        rows: Rows
        if text is None:
            rows = await self._alone(query)
        else:
            rows = await self._lanes[text].do(query)
        return rows

    def _share(self, waiting: int) -> int:
        """Of many who look, half, while none is drawing.

        Then the server writes the one half's draws while the other half's are made here.
        """
        if waiting < _HALVED_FROM or self._lanes[DRAW].is_at_work:
            return waiting
        return waiting // 2

    async def _alone(self, query: Query[Any]) -> Rows:
        return await self._fetch(*single(query, self._schema), writes=query.writes)

    async def _answers(self, queries: Sequence[Query[Any]]) -> Sequence[Answer]:
        return await perform_async(_answers(queries, self._schema), self._fetch)


def _answers(queries: Sequence[Query[Any]], schema: str) -> Steps[Sequence[Answer]]:
    """What each query gives, or raises, of those that are asked as one; as steps on a `Fetch`."""
    text, arguments = _several(queries, schema)
    try:
        rows: Rows = yield lambda fetch: fetch(text, arguments, writes=queries[0].writes)
        return parted(queries, rows)
    except _ALL_ALIKE as error:
        return [_again(error) for _ in queries]
    except FreeTierError:
        return (yield from _one_by_one(queries, schema))


def _one_by_one(queries: Sequence[Query[Any]], schema: str) -> Steps[Sequence[Answer]]:
    answers: list[Answer] = []
    for query in queries:
        try:
            answers.append((yield _asking(query, schema)))
        except FreeTierError as error:
            answers.append(error)
            if isinstance(error, _ALL_ALIKE):
                answers += _not_asked(error, len(queries) - len(answers))
                break
    return answers


def _asking(query: Query[Any], schema: str) -> Step:
    text, arguments = single(query, schema)
    return lambda fetch: fetch(text, arguments, writes=query.writes)


def _several(queries: Sequence[Query[Any]], schema: str) -> Statement:
    text, params = asked(queries)
    text, names = numbered(text, schema)
    return text, [params[name] for name in names]


def _again(error: FreeTierError) -> FreeTierError:
    """One for each caller: a traceback grows where it is raised."""
    one = copy(error)
    one.__cause__ = error
    return one


def _not_asked(error: FreeTierError, number: int) -> list[FreeTierError]:
    """For those whose turn would come next: nobody waits out a time of its own, one by one."""
    return [
        StoreUnavailable(f"Postgres: not asked for, after {error.message}") for _ in range(number)
    ]


def _giving(answer: Answer) -> Callable[[object], Rows]:
    def give(_: object) -> Rows:
        if isinstance(answer, FreeTierError):
            raise answer
        return answer

    return give
