"""Who pays for this request: the caller, or the community's generosity pool?"""

from freetier.audit import Problem, Report
from freetier.errors import (
    ConfigError,
    Conflict,
    FreeTierError,
    IntegrityError,
    InvalidInput,
    NotAuthenticated,
    OutcomeUnknown,
    SchemaError,
    StoreFull,
    StoreReadOnly,
    StoreUnavailable,
    UnknownRequest,
)
from freetier.opening import open, open_async
from freetier.policy import FreeTierPolicy, HostLimit
from freetier.repository import AsyncRepository, Repository
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
    "HostLimit",
    "IntegrityError",
    "InvalidInput",
    "Kind",
    "Limit",
    "NotAuthenticated",
    "OutcomeUnknown",
    "PoolStatus",
    "Problem",
    "Report",
    "Repository",
    "Request",
    "SchemaError",
    "Serve",
    "Settlement",
    "Snapshot",
    "StoreFull",
    "StoreReadOnly",
    "StoreUnavailable",
    "UnknownRequest",
    "open",
    "open_async",
]
