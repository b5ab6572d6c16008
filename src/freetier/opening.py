"""`freetier.open` and its async twin: pick the adapter by URL, migrate, seed once."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Generator
from datetime import datetime
from importlib import import_module
from types import TracebackType
from typing import Any

from attrs import define

from freetier.errors import ConfigError, InvalidInput
from freetier.operations import OnUnavailable, check_options
from freetier.policy import FreeTierPolicy
from freetier.service import AsyncFreeTier, FreeTier

_SQLITE = "sqlite:///"
_MEMORY = "memory:"
_POSTGRES = ("postgresql://", "postgres://")
# What is meant for Postgres and would else be the name of a file.
_LIKE_POSTGRES = re.compile(r"(?i)postgres(ql)?:|\w+=\S* +\w+=")


def open(
    url: str | os.PathLike[str],
    policy: FreeTierPolicy | None = None,
    *,
    schema: str | None = None,
    clock: Callable[[], datetime] | None = None,
    on_unavailable: OnUnavailable = "raise",
) -> FreeTier:
    """A ledger that is ready: migrated, and seeded if it was new. A context manager; it closes.

    `url` is a path (`freetier.db`), `sqlite:///relative.db`, `sqlite:////absolute.db`,
    `postgresql://…`, or `memory:` for a ledger that is gone with the process. `schema` is the
    Postgres schema for the tables, `public` if None. Without a policy the environment says:
    `FreeTierPolicy.from_env()`. Raises `InvalidInput`, `ConfigError`, `SchemaError`,
    `StoreUnavailable`.
    """
    if policy is None:
        policy = FreeTierPolicy.from_env()
    check_options(policy, clock, on_unavailable)
    repository = _repository(url, schema)
    try:
        ledger = FreeTier(policy, repository, clock=clock, on_unavailable=on_unavailable)
        ledger.seed()
    except BaseException:
        repository.close()
        raise
    return ledger


def open_async(
    url: str | os.PathLike[str],
    policy: FreeTierPolicy | None = None,
    *,
    schema: str | None = None,
    clock: Callable[[], datetime] | None = None,
    on_unavailable: OnUnavailable = "raise",
) -> OpeningAsync:
    """What `open` gives, for async code: to be entered (`async with`), or awaited and closed.

    Postgres is reached through psycopg; for asyncpg, or settings of a connection pool, give
    `AsyncFreeTier` a repository that you made. Raises as `open` does, some of it when awaited.
    """
    if policy is None:
        policy = FreeTierPolicy.from_env()
    check_options(policy, clock, on_unavailable)
    repository = _repository(url, schema, "Async")
    ledger = AsyncFreeTier(policy, repository, clock=clock, on_unavailable=on_unavailable)
    return OpeningAsync(ledger)


@define
class OpeningAsync:
    """A ledger that is being opened: enter it, or await it and close it yourself."""

    _ledger: AsyncFreeTier

    def __await__(self) -> Generator[Any, None, AsyncFreeTier]:
        return self.__aenter__().__await__()

    async def __aenter__(self) -> AsyncFreeTier:
        try:
            await self._ledger.repository.open()
            await self._ledger.seed()
        except BaseException:
            await self._ledger.close()
            raise
        return self._ledger

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._ledger.close()


def sqlite_path(url: str) -> str | None:
    """The file that `url` names, as a path or as `sqlite:///…`; None for any other database's."""
    path = url.removeprefix(_SQLITE)
    return None if "://" in path or url == _MEMORY else path


def is_postgres(url: object) -> bool:
    """Whether `url` is a Postgres database's."""
    return isinstance(url, str) and url.startswith(_POSTGRES)


def adapter(module: str) -> Any:
    """The adapter's module, imported only when it is asked for. Raises `ConfigError`."""
    try:
        return import_module(f"freetier.{module}")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{error.name} is not installed: pip install 'freetier[{module}]'"
        ) from error


def _repository(url: str | os.PathLike[str], schema: str | None, twin: str = "") -> Any:
    """The adapter of the URL's scheme."""
    if is_postgres(url):
        return _made(url, "postgres", f"{twin}PostgresRepository", url, schema=schema)
    if schema is not None:
        raise InvalidInput("schema", schema, "None: only Postgres has schema names")
    if url == _MEMORY:
        return _made(url, "_async_memory" if twin else "memory", f"{twin}MemoryRepository")
    return _made(url, "sqlite", f"{twin}SQLiteRepository", _file(url))


def _file(url: str | os.PathLike[str]) -> str | os.PathLike[str]:
    if not isinstance(url, str):
        if isinstance(url, os.PathLike):
            return url
        raise InvalidInput("url", url, "a path or a URL")
    if url.startswith(_SQLITE) and ("?" in url or "#" in url):
        raise InvalidInput("url", url, "a URL without parameters")
    if _LIKE_POSTGRES.match(url):
        raise InvalidInput("url", url, "a path, sqlite:///… or, for Postgres, postgresql://…")
    path = sqlite_path(url)
    if path is None:
        scheme = url.partition("://")[0]
        raise ConfigError(
            f"{scheme}://…: no adapter for this; known are a path, sqlite:///… and postgresql://…"
        )
    return path


def _made(url: object, module: str, name: str, *args: object, **options: object) -> Any:
    try:
        return getattr(adapter(module), name)(*args, **options)
    except InvalidInput as error:
        if error.argument == "database":
            raise InvalidInput("url", url, error.expected) from error
        raise
