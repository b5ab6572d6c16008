"""Who pays for this request: the caller, or the community's generosity pool?"""

from freetier.audit import Problem, Report
from freetier.checkpoint import Checkpoint
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
