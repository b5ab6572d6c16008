"""Who pays for this request: the caller, or the community's generosity pool?"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from freetier.audit import Problem, Report
    from freetier.checkpoint import Checkpoint
    from freetier.entries import Credit, Entry, Grant, GrantState, Kind, PoolStatus
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
    from freetier.opening import open, open_async
    from freetier.policy import FreeTierPolicy, HostLimit
    from freetier.reconciling import Payment, Reconciliation
    from freetier.repository import AsyncRepository, Repository
    from freetier.sealing import Head
    from freetier.service import AsyncFreeTier, FreeTier
    from freetier.values import Decision, Limit, Request, Serve, Settlement, Snapshot

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

# Loaded when they are first asked for: nobody waits for what is not used.
_WHEN_ASKED = {
    "AsyncFreeTier": "service",
    "AsyncRepository": "repository",
    "Checkpoint": "checkpoint",
    "ConfigError": "errors",
    "Conflict": "errors",
    "Credit": "entries",
    "Decision": "values",
    "Entry": "entries",
    "FreeTier": "service",
    "FreeTierError": "errors",
    "FreeTierPolicy": "policy",
    "Grant": "entries",
    "GrantState": "entries",
    "Head": "sealing",
    "HostLimit": "policy",
    "IllegalTransition": "errors",
    "InsufficientBalance": "errors",
    "IntegrityError": "errors",
    "InvalidInput": "errors",
    "Kind": "entries",
    "Limit": "values",
    "NotAuthenticated": "errors",
    "OutcomeUnknown": "errors",
    "Payment": "reconciling",
    "PoolStatus": "entries",
    "Problem": "audit",
    "Reconciliation": "reconciling",
    "Report": "audit",
    "Repository": "repository",
    "Request": "values",
    "SchemaError": "errors",
    "Serve": "values",
    "Settlement": "values",
    "Snapshot": "values",
    "StalePrice": "errors",
    "StoreFull": "errors",
    "StoreReadOnly": "errors",
    "StoreUnavailable": "errors",
    "UnknownRequest": "errors",
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
