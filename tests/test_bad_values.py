"""Bad values at the functions that need no ledger: refused by the argument's name."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from attrs import fields

from freetier import (
    FreeTierPolicy,
    HostLimit,
    InvalidInput,
    Request,
    Snapshot,
    jobs,
    migrations,
    nostr,
    pricing,
    sessions,
)
from freetier.asyncpg import AsyncpgRepository
from freetier.invoices import Refund, RefundState
from freetier.postgres import AsyncPostgresRepository

from .bad_values import BAD
from .figures import Count

AT = datetime(2026, 1, 5, tzinfo=UTC)
DECISION = FreeTierPolicy().decide(Request("job", "ab", "trusted", 9), Snapshot(AT, 100))
RATES = {
    "input_usd_per_million": Decimal(1),
    "output_usd_per_million": Decimal(1),
    "margin_pct": Decimal(1),
    "btc_usd": Decimal(1),
}
TOKENS = {"rates": pricing.Rates(**RATES), "input_tokens": 1, "output_tokens": 1}
CONNECTIONS = {"database": "postgresql://localhost/", "timeout_s": 1, "connections": 1}
FUNCTIONS: dict[str, tuple[Callable[..., object], dict[str, Any]]] = {
    "FreeTierPolicy": (
        FreeTierPolicy,
        {field.name: getattr(FreeTierPolicy(), field.name) for field in fields(FreeTierPolicy)},
    ),
    "decide": (
        FreeTierPolicy().decide,
        {"request": Request("job", "ab", "trusted", 9), "snapshot": Snapshot(AT, 100)},
    ),
    "from_env": (FreeTierPolicy.from_env, {"environ": {}}),
    "HostLimit": (HostLimit, {"name": "mine", "room": lambda *_: 1}),
    "statements": (migrations.statements, {"dialect": "sqlite", "since": 0}),
    "AsyncPostgresRepository": (AsyncPostgresRepository, CONNECTIONS),
    "AsyncpgRepository": (AsyncpgRepository, CONNECTIONS),
    "refund_begun": (
        Refund(9, RefundState.PENDING, "ab@example.com").begun,
        {"destination": "ab@example.com", "bolt11": "lnbc1", "payment_hash": "hash"},
    ),
    "Snapshot": (
        Snapshot,
        {field.name: AT if field.name == "at" else 5 for field in fields(Snapshot)},
    ),
    "Decision.settle": (DECISION.settle, {"actual_sats": 5}),
    "Rates": (pricing.Rates, RATES),
    "price_sats": (pricing.price_sats, TOKENS),
    "cost_usd": (pricing.cost_usd, TOKENS),
    "jobs.create": (
        jobs.create,
        {"job_id": "job", "request": "sums", "eval_amount_sats": 1, "at": AT}
        | {"identity": "ab", "tier": "new"},
    ),
    "sessions.create": (
        sessions.create,
        {"session_id": "session", "deposit_sats": 10, "at": AT, "identity": "ab", "tier": "new"},
    ),
    "canonical_pubkey": (nostr.canonical_pubkey, {"text": "ab" * 32}),
    "npub": (nostr.npub, {"pubkey": "ab" * 32}),
}
LARGE = {"all bitcoin and one"}  # what was used of a day may be more than all there is at once
DECIMAL = {"Decimal"}
SECONDS = {"whole float", "float"}
NOT_RAW = {"rates", "room", "destination", "bolt11"}  # values of ours; what a record has
WORDS = {
    "space", "leading space", "trailing space", "257 characters", "a megabyte", "newline", "tab",
    "escape", "markup", "ampersand", "zero-width space", "right-to-left override",
    "full-width digits", "Kelvin sign", "split accent",
}  # fmt: skip
TAKES = {
    ("FreeTierPolicy", "budgets"): {"dict"},
    ("FreeTierPolicy", "tier_ceilings"): {"dict"},
    ("FreeTierPolicy", "daily_release_sats"): {"None"},
    ("FreeTierPolicy", "daily_release_paced"): {"True", "False"},
    ("FreeTierPolicy", "pool_share_bp"): {"None"},
    ("FreeTierPolicy", "per_request_sats"): {"None"},
    ("FreeTierPolicy", "limits"): {"list", "dict", "empty"},
    ("from_env", "environ"): {"dict"},
    ("Snapshot", "balance_sats"): LARGE,
    ("Snapshot", "identity_used_sats"): LARGE,
    ("Snapshot", "tier_used_sats"): LARGE,
    ("Snapshot", "pool_used_sats"): LARGE,
    ("Decision.settle", "actual_sats"): {"None"},
    **{("Rates", name): DECIMAL for name in RATES},
    ("AsyncPostgresRepository", "timeout_s"): SECONDS,
    ("AsyncpgRepository", "timeout_s"): SECONDS,
    ("jobs.create", "request"): WORDS,
    ("jobs.create", "identity"): {"None"},
    ("sessions.create", "identity"): {"None"},
}
CASES = [
    (function, argument)
    for function, (_, good) in FUNCTIONS.items()
    for argument in good
    if argument not in NOT_RAW
]


@pytest.mark.parametrize(("function", "argument"), CASES)
def test_a_bad_value_is_refused_by_name(function: str, argument: str, count_of: Count) -> None:
    """A bad value is `InvalidInput` that names the argument; a good one is taken."""
    call, good = FUNCTIONS[function]
    call(**good)
    for name in BAD.keys() - TAKES.get((function, argument), set()):
        with pytest.raises(InvalidInput) as caught:
            call(**good | {argument: BAD[name]})
        assert caught.value.argument == argument, name
        count_of("bad values refused", 1)
