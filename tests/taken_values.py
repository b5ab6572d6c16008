"""What of the bad values an argument may well take, and what is not met by them."""

from __future__ import annotations

from attrs import fields

from freetier import pricing

from .bad_calls import FUNCTIONS
from .bad_values import TEXT

NONE, DECIMAL, SECONDS, YES_NO = {"None"}, {"Decimal"}, {"whole float", "float"}, {"True", "False"}
LARGE = {"all bitcoin and one"}  # what was used of a day may be more than all there is at once
ENCODED = TEXT - {"lone surrogate"}
WORDS = TEXT - {"empty", "NUL", "lone surrogate"}
NAMES = {  # of a schema in Postgres
    "space", "leading space", "trailing space", "markup", "ampersand", "full-width digits",
    "Kelvin sign", "split accent",
}  # fmt: skip
SERVERS = ("postgres.PostgresRepository", "postgres.AsyncPostgresRepository")
TAKES: dict[tuple[str, str], set[str]] = {
    **{(name, "clock"): {"None", "type"} for name in ("FreeTier", "AsyncFreeTier")},
    **{(name, "url"): TEXT for name in ("open", "open_async")},
    **{(name, "policy"): NONE for name in ("open", "open_async")},
    **{(name, "clock"): {"None", "type"} for name in ("open", "open_async")},
    **{(name, "identity"): NONE for name in ("Request", "jobs.create", "sessions.create")},
    **{("Snapshot", f"{whose}_used_sats"): LARGE for whose in ("identity", "tier", "pool")},
    ("Snapshot", "balance_sats"): LARGE,
    ("Decision.settle", "actual_sats"): NONE,
    ("FreeTierPolicy", "budgets"): {"dict"},
    ("FreeTierPolicy", "tier_ceilings"): {"dict"},
    ("FreeTierPolicy", "daily_release_sats"): NONE,
    ("FreeTierPolicy", "daily_release_paced"): YES_NO,
    ("FreeTierPolicy", "pool_share_bp"): NONE,
    ("FreeTierPolicy", "per_request_sats"): NONE,
    ("FreeTierPolicy", "limits"): {"list", "dict", "empty"},
    ("FreeTierPolicy.from_env", "environ"): {"dict"},
    ("HostLimit", "room"): {"type"},
    ("HostLimit", "resets_daily"): YES_NO,
    ("Head", "seq"): LARGE,
    ("invoices.Invoice", "bolt11"): WORDS,
    ("invoices.Invoice", "paid_at"): NONE,
    ("invoices.Refund", "destination"): WORDS | NONE,
    ("invoices.Refund", "bolt11"): WORDS | NONE,
    ("invoices.Refund", "payment_hash"): NONE,
    ("Refund.begun", "destination"): WORDS,
    ("Refund.begun", "bolt11"): WORDS,
    ("jobs.create", "request"): WORDS,
    ("jobs.rejected", "reason"): WORDS,
    ("jobs.priced", "estimated_cost_usd"): DECIMAL,
    ("jobs.worked", "result"): WORDS | {"empty"},
    ("jobs.worked", "actual_cost_usd"): DECIMAL,
    ("jobs.work_failed", "message"): WORDS,
    **{
        (f"{kind}.{event}", argument): WORDS
        for kind in ("jobs", "sessions")
        for event, argument in (
            ("refund_to", "destination"),
            ("refund_begun", "destination"),
            ("refund_begun", "bolt11"),
        )
    },
    ("sessions.admitted", "request"): WORDS,
    ("sessions.repeated", "request"): WORDS,
    ("sessions.computed", "result"): WORDS | {"empty"},
    ("sessions.computed", "actual_cost_usd"): DECIMAL,
    ("sessions.request_failed", "message"): WORDS,
    **{("pricing.Rates", field.name): DECIMAL for field in fields(pricing.Rates)},
    ("pricing.BtcPrice", "usd"): DECIMAL,
    ("BtcPrice.fresh_usd", "max_age"): {"no time at all", "367 days"},
    **{
        (f"http.{name}", "instance"): ENCODED | NONE
        for name in ("payment_required", "problem", "plain_problem")
    },
    ("http.plain_problem", "detail"): ENCODED,
    ("http.plain_problem", "members"): {"None", "dict"},
    ("http.plain_problem", "headers"): {"None", "dict"},
    ("nostr.verify_nip98", "header"): TEXT | NONE,  # what a caller sends is `NotAuthenticated`
    ("nostr.verify_nip98", "method"): {"markup", "ampersand", "257 characters", "a megabyte"},
    ("nostr.verify_nip98", "body"): {"None", "bytes"},
    ("nostr.verify_nip98", "now"): NONE,
    ("nostr.verify_nip98", "seen"): NONE,
    ("sqlite.SQLiteRepository", "database"): WORDS,
    ("sqlite.SQLiteRepository", "timeout_s"): SECONDS,
    ("sqlite.AsyncSQLiteRepository", "database"): WORDS,
    ("sqlite.AsyncSQLiteRepository", "timeout_s"): SECONDS,
    **{
        (name, argument): taken
        for name in (*SERVERS, "asyncpg.AsyncpgRepository")
        for argument, taken in {
            "schema": NAMES | NONE,
            "timeout_s": SECONDS,
            "through_pooler": YES_NO,
        }.items()
    },
    **{
        (name, "schema"): NONE
        for name, (_, good) in FUNCTIONS.items()
        if "schema" in good and "connections" not in good
    },
}
"""The bad values that an argument may well take."""
CALLED = {
    ("sealing.parse_head", "text"): "head",
    ("checkpoint.parse_checkpoint", "text"): "checkpoint",
}
"""The arguments that an error names otherwise: by what the text was to be."""

EXCEPTIONS = {
    **dict.fromkeys(
        (
            "Credit", "Decision", "Entry", "Grant", "Payment", "PoolStatus", "Problem",
            "Reconciliation", "Report", "Settlement", "pricing.Estimate", "http.Reply",
            "tables.Table", "tables.Tables",
        ),
        "a caller receives it, and never makes one",
    ),
    **dict.fromkeys(
        ("jobs.Job", "sessions.Session", "sessions.SessionRequest"),
        "the events make it; a host makes one of its own rows, which its tables check",
    ),
    **dict.fromkeys(
        (
            "sqlite.migrate", "sqlite.migrate_async", "postgres.migrate", "postgres.migrate_async",
            "asyncpg.migrate_async", "sqlalchemy.migrate", "sqlalchemy.migrate_async",
            "migrations.split", "migrations.in_text", "migrations.check_dialect",
            "pricing.check_decimal", "pricing.check_tokens", "postgres.reading",
            "postgres.perform_on",
        ),
        "another part of the library calls it, with what was checked",
    ),
    "starlette.on_error": "the framework calls it",
}  # fmt: skip
"""What is not met by bad values, and why."""
