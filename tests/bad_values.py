"""Bad values, and every argument of a ledger's methods that has to refuse them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

from attrs import frozen

import freetier
from freetier import FreeTier, FreeTierPolicy, Request
from freetier.values import MAX_SATS

BAD: dict[str, Any] = {
    "None": None,
    "True": True,
    "False": False,
    "minus one": -1,
    "all bitcoin and one": MAX_SATS + 1,
    "minus all bitcoin and one": -MAX_SATS - 1,
    "beyond 64 bits": 2**63,
    "huge": 10**30,
    "whole float": 1.0,
    "float": 0.5,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "complex": 1j,
    "Decimal": Decimal(1),
    "Decimal NaN": Decimal("NaN"),
    "Fraction": Fraction(1),
    "bytes": b"key",
    "bytearray": bytearray(b"key"),
    "list": [],
    "tuple": ("key",),
    "dict": {},
    "set": {"key"},
    "object": object(),
    "type": int,
    "exception": ValueError("key"),
    "no time at all": timedelta(0),
    "negative time": timedelta(microseconds=-1),
    "367 days": timedelta(days=367),
    "naive datetime": datetime(2026, 1, 5, 12),  # noqa: DTZ001
    "datetime before 1970": datetime(1969, 12, 31, tzinfo=UTC),
    "date": datetime(2026, 1, 5, tzinfo=UTC).date(),
    "empty": "",
    "space": " ",
    "leading space": " key",
    "trailing space": "key ",
    "257 characters": "k" * 257,
    "a megabyte": "k" * 1_000_000,
    "NUL": "key\0",
    "newline": "key\n",
    "tab": "k\tey",
    "escape": "\x1b[2J",
    "markup": "<b>key</b>",
    "ampersand": "a&b",
    "lone surrogate": "key\ud800",
    "zero-width space": "k\u200bey",
    "right-to-left override": "\u202eyek",
    "full-width digits": "\uff11\uff12",
    "Kelvin sign": "\u212aey",
    "split accent": "cle\u0301",
}
TEXT = {name for name, value in BAD.items() if isinstance(value, str)}


@frozen
class Argument:
    """An argument, how to pass it, and the names of the values that it may well take."""

    name: str
    give: Callable[[FreeTier, Any], object]
    takes: frozenset[str] = frozenset()
    of_request: bool = False  # `Request` itself refuses it, before any ledger is asked


def asking(ask: str) -> list[Argument]:
    """The arguments of a method that takes a request: the request itself, and its fields."""
    fields: dict[str, Any] = {"request_id": "new", "identity": "ab", "tier": "new", "price_sats": 9}

    def give(field: str) -> Callable[[FreeTier, Any], object]:
        return lambda ledger, value: getattr(ledger, ask)(Request(**fields | {field: value}))

    taken = {"identity": frozenset({"None"})}
    each = [Argument(field, give(field), taken.get(field, frozenset()), True) for field in fields]
    return [Argument("request", lambda ledger, value: getattr(ledger, ask)(value)), *each]


REQUEST = Request("new", "ab", "trusted", 9)
NONE = frozenset({"None"})
FROM_0 = frozenset({"all bitcoin and one", "beyond 64 bits", "huge"})
ARGUMENTS = {
    "decide": asking("decide"),
    "reserve": [
        *asking("reserve"),
        Argument("ttl", lambda ledger, value: ledger.reserve(REQUEST, ttl=value), NONE),
    ],
    "record_grant": asking("record_grant"),
    "settle": [
        Argument("request_id", lambda ledger, value: ledger.settle(value, 1)),
        Argument("actual_sats", lambda ledger, value: ledger.settle("held", value), NONE),
    ],
    "release": [Argument("request_id", lambda ledger, value: ledger.release(value))],
    "grant": [Argument("request_id", lambda ledger, value: ledger.grant(value))],
    "credit": [
        Argument("payment_hash", lambda ledger, value: ledger.credit(value, 70)),
        Argument("paid_sats", lambda ledger, value: ledger.credit("new", value)),
    ],
    "donate": [
        Argument("key", lambda ledger, value: ledger.donate(value, 5)),
        Argument("sats", lambda ledger, value: ledger.donate("new", value)),
        Argument(
            "sponsor",
            lambda ledger, value: ledger.donate("new", 5, sponsor=value),
            frozenset({"empty"}),
        ),
        Argument(
            "note", lambda ledger, value: ledger.donate("new", 5, note=value), frozenset({"empty"})
        ),
    ],
    "adjust": [
        Argument("key", lambda ledger, value: ledger.adjust(value, 5, note="why")),
        Argument(
            "sats",
            lambda ledger, value: ledger.adjust("new", value, note="why"),
            frozenset({"minus one"}),
        ),
        Argument("note", lambda ledger, value: ledger.adjust("new", 5, note=value)),
    ],
    "reconcile": [
        Argument(
            "paid",
            lambda ledger, value: ledger.reconcile(value),
            frozenset({"list", "dict", "empty"}),  # of no payment
        ),
        Argument("payment_hash", lambda ledger, value: ledger.reconcile([(value, 70)])),
        Argument("paid_sats", lambda ledger, value: ledger.reconcile([("new", value)])),
    ],
    "verify": [
        Argument("head", lambda ledger, value: ledger.verify(head=value), NONE),
        Argument("checkpoint", lambda ledger, value: ledger.verify(checkpoint=value), NONE),
    ],
    "seal": [Argument("since", lambda ledger, value: ledger.seal(since=value), NONE)],
    "journal": [Argument("after", lambda ledger, value: ledger.journal(value), FROM_0)],
}
"""Of the methods of a ledger."""

MADE = {
    "FreeTier": [
        Argument("policy", lambda ledger, value: FreeTier(value, ledger.repository)),
        Argument(
            "clock",
            lambda ledger, value: FreeTier(ledger.policy, ledger.repository, clock=value),
            frozenset({"None", "type"}),
        ),
        Argument(
            "on_unavailable",
            lambda ledger, value: FreeTier(ledger.policy, ledger.repository, on_unavailable=value),
        ),
        Argument(
            "clock()",
            lambda ledger, value: FreeTier(
                ledger.policy, ledger.repository, clock=lambda: value
            ).donate("new", 5),
        ),
    ],
    "open": [
        Argument(
            "url", lambda _, value: freetier.open(value, policy=FreeTierPolicy()), frozenset(TEXT)
        )
    ],
}
"""Of what makes one."""
