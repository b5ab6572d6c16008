"""Who pays for this request: the caller, or the community's generosity pool?"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from freetier.errors import (
    ConfigError,
    Conflict,
    FreeTierError,
    IllegalTransition,
    InsufficientBalance,
    IntegrityError,
    InvalidInput,
    NotAuthenticated,
    OutcomeUnknown,
    SchemaError,
    StalePrice,
    StoreFull,
    StoreReadOnly,
    StoreUnavailable,
    UnknownRequest,
)
from freetier.policy import FreeTierPolicy, HostLimit
from freetier.values import (
    Credit,
    Decision,
    Entry,
    Grant,
    GrantState,
    Kind,
    Limit,
    PoolStatus,
    Request,
    Serve,
    Settlement,
    Snapshot,
)

if TYPE_CHECKING:
    from freetier.audit import Problem, Report
    from freetier.checkpoint import Checkpoint
    from freetier.opening import open, open_async
    from freetier.reconciling import Payment, Reconciliation
    from freetier.repository import AsyncRepository, Repository
    from freetier.sealing import Head
    from freetier.service import AsyncFreeTier, FreeTier

__all__ = [
    "AsyncFreeTier",
    "AsyncRepository",
    "Checkpoint",
    "ConfigError",
    "Conflict",
    "Credit",
    "Decision",
    "Entry",
    "FreeTier",
    "FreeTierError",
    "FreeTierPolicy",
    "Grant",
    "GrantState",
    "Head",
    "HostLimit",
    "IllegalTransition",
    "InsufficientBalance",
    "IntegrityError",
    "InvalidInput",
    "Kind",
    "Limit",
    "NotAuthenticated",
    "OutcomeUnknown",
    "Payment",
    "PoolStatus",
    "Problem",
    "Reconciliation",
    "Report",
    "Repository",
    "Request",
    "SchemaError",
    "Serve",
    "Settlement",
    "Snapshot",
    "StalePrice",
    "StoreFull",
    "StoreReadOnly",
    "StoreUnavailable",
    "UnknownRequest",
    "open",
    "open_async",
]

# Loaded when they are first asked for: who only decides, or only imports, does not wait for them.
_WHEN_ASKED = {
    "AsyncFreeTier": "service",
    "AsyncRepository": "repository",
    "Checkpoint": "checkpoint",
    "FreeTier": "service",
    "Head": "sealing",
    "Payment": "reconciling",
    "Problem": "audit",
    "Reconciliation": "reconciling",
    "Report": "audit",
    "Repository": "repository",
    "open": "opening",
    "open_async": "opening",
}


if not TYPE_CHECKING:  # else every name would pass for one

    def __getattr__(name: str) -> Any:
        if name not in _WHEN_ASKED:
            raise AttributeError(f"module 'freetier' has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"freetier.{_WHEN_ASKED[name]}"), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
