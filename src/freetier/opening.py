"""`freetier.open`: pick the adapter by URL, migrate, seed once."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from importlib import import_module

from freetier.errors import ConfigError, InvalidInput
from freetier.operations import OnUnavailable, check_options
from freetier.policy import FreeTierPolicy
from freetier.repository import Repository
from freetier.service import FreeTier

_SQLITE = "sqlite:///"
_MEMORY = "memory:"


def open(
    url: str | os.PathLike[str],
    policy: FreeTierPolicy | None = None,
    *,
    clock: Callable[[], datetime] | None = None,
    on_unavailable: OnUnavailable = "raise",
) -> FreeTier:
    """A ledger that is ready: migrated, and seeded if it was new. A context manager; it closes.

    `url` is a path (`freetier.db`), `sqlite:///relative.db`, `sqlite:////absolute.db`, or
    `memory:` for a ledger that is gone with the process. Without a policy the environment says:
    `FreeTierPolicy.from_env()`. Raises `InvalidInput`, `ConfigError`, `SchemaError`,
    `StoreUnavailable`.
    """
    if policy is None:
        policy = FreeTierPolicy.from_env()
    check_options(policy, clock, on_unavailable)
    try:
        repository = _repository(url)
    except InvalidInput as error:
        raise InvalidInput("url", url, error.expected) from error
    try:
        ledger = FreeTier(policy, repository, clock=clock, on_unavailable=on_unavailable)
        ledger.seed()
    except BaseException:
        repository.close()
        raise
    return ledger


def sqlite_path(url: str) -> str | None:
    """The file that `url` names, as a path or as `sqlite:///…`; None for any other database's."""
    path = url.removeprefix(_SQLITE)
    return None if "://" in path or url == _MEMORY else path


def _repository(url: str | os.PathLike[str]) -> Repository:
    """The adapter of the URL's scheme, imported only when it is asked for."""
    if isinstance(url, str):
        if url == _MEMORY:
            return _made("memory", "MemoryRepository")
        if url.startswith(_SQLITE) and ("?" in url or "#" in url):
            raise InvalidInput("url", url, "a URL without parameters")
        path = sqlite_path(url)
        if path is None:
            scheme = url.partition("://")[0]
            raise ConfigError(f"{scheme}://…: no adapter for this; a path or sqlite:///… is known")
        return _made("sqlite", "SQLiteRepository", path)
    if isinstance(url, os.PathLike):
        return _made("sqlite", "SQLiteRepository", url)
    raise InvalidInput("url", url, "a path or a URL")


def _made(module: str, name: str, *args: object) -> Repository:
    repository: Repository = getattr(import_module(f"freetier.{module}"), name)(*args)
    return repository
