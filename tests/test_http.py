"""What is answered over HTTP: nothing of the host's own, and every figure as it was decided."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from freetier import FreeTier, FreeTierError, FreeTierPolicy, InvalidInput, Request, errors, http
from freetier.errors import InsufficientBalance
from freetier.invoices import Invoice
from freetier.testing import Clock, strategies
from freetier.values import MAX_SATS, Snapshot

NOW = datetime(2030, 1, 1, 18, tzinfo=UTC)
INVOICE = Invoice("the-hash", "lnbc1", 40, NOW)
POLICY = FreeTierPolicy()


def every_error() -> list[type[FreeTierError]]:
    found = [FreeTierError]
    for kind in found:
        found += kind.__subclasses__()
    return [kind for kind in found if kind.__module__ == errors.__name__]


def made(kind: type[FreeTierError]) -> FreeTierError:
    if kind is InvalidInput:
        return InvalidInput("price_sats", -1, "a whole number")
    if kind is InsufficientBalance:
        return InsufficientBalance("session", 9, 5)
    return kind("password=hunter2 at /srv/ledger.db")


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_every_error_is_a_problem(kind: type[FreeTierError]) -> None:
    """Every error has a status and a problem that is valid JSON and names the error's class."""
    reply = http.problem(made(kind), instance="/api/jobs")
    assert reply.headers["Content-Type"] == "application/problem+json"
    body = json.loads(json.dumps(reply.body))
    assert body["status"] == reply.status
    assert (body["type"], body["error"]) == ("about:blank", kind.__name__)
    assert body["instance"] == "/api/jobs"
    assert body["detail"]


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_what_is_not_the_callers_is_not_told(kind: type[FreeTierError]) -> None:
    """A message is told only where it is about what the caller sent: not who asked first."""
    reply = http.problem(made(kind))
    told = "hunter2" in json.dumps(reply.body)
    assert told is (kind is errors.NotAuthenticated)
    assert "\n" not in str(reply.body["detail"])


@pytest.mark.parametrize(
    ("error", "status", "retry"),
    [
        ("NotAuthenticated", 401, False),
        ("InsufficientBalance", 402, False),
        ("UnknownRequest", 404, False),
        ("Conflict", 409, False),
        ("IllegalTransition", 409, False),
        ("InvalidInput", 422, False),
        ("StoreUnavailable", 503, True),
        ("OutcomeUnknown", 503, True),
        ("StalePrice", 503, True),
        ("StoreReadOnly", 503, False),
        ("StoreFull", 503, False),
        ("IntegrityError", 500, False),
        ("SchemaError", 500, False),
        ("ConfigError", 500, False),
        ("FreeTierError", 500, False),
    ],
)
def test_statuses(error: str, status: int, retry: bool) -> None:
    """Each error has the status that says what the caller may do; 503 says when to try again."""
    reply = http.problem(made(getattr(errors, error)))
    assert (reply.status, "Retry-After" in reply.headers) == (status, retry)


def test_members_for_programs() -> None:
    """Bad input is named; a balance that is too small says how much it lacks; 401 says by what."""
    bad = http.problem(InvalidInput("price_sats", "a secret", "a whole number"))
    assert (bad.body["argument"], bad.body["expected"]) == ("price_sats", "a whole number")
    assert bad.body["detail"] == "price_sats: expected a whole number"
    assert "a secret" not in json.dumps(bad.body)
    short = http.problem(made(InsufficientBalance)).body
    assert (short["needed_sats"], short["free_sats"]) == (9, 5)
    proof = http.problem(made(errors.NotAuthenticated))
    assert proof.headers["WWW-Authenticate"] == "Nostr"


@pytest.mark.parametrize(
    "members",
    [
        {"of": Decimal(1)},
        {"of": {"of": [b"bytes"]}},
        {"of": float("nan")},
        {"of": "key\ud800"},
        {"key\ud800": 1},
        {("a", "b"): 1},
    ],
    ids=ascii,
)
def test_members_that_json_has_not(members: dict[str, object]) -> None:
    """What could not be answered as JSON is refused by name, before it is to be sent."""
    with pytest.raises(InvalidInput) as caught:
        http.plain_problem(404, "Not here.", members=members)
    assert caught.value.argument == "members"


def test_members_within_themselves() -> None:
    """So is what has no end, or is nested too deep."""
    endless: list[object] = []
    endless.append(endless)
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    for value in (endless, deep):
        with pytest.raises(InvalidInput, match="members"):
            http.plain_problem(404, "Not here.", members={"of": value})


@pytest.mark.parametrize(
    "headers",
    [
        {"Retry-After": 1},
        {1: "one"},
        {b"X-Name": "bytes"},
        {"X-Name": None},
        {"X-Name": "\u20bf"},
        {"X-Name": "key\ud800"},
        {"X-Name": "key\r\nSet-Cookie: a=b"},
        {"X-Name": "key\0"},
        {"X-Name\n": "key"},
        {"X Name": "key"},
        {"X-N\xe4me": "key"},
        {"": "key"},
    ],
    ids=ascii,
)
def test_headers_that_http_has_not(headers: dict[str, str]) -> None:
    """A header that could not be sent, or would end its line, is refused by name."""
    fit = {"X-Name": "a\tb, c; \xe4", "x-empty": ""}
    assert http.plain_problem(404, "Not here.", headers=fit).headers.items() >= fit.items()
    with pytest.raises(InvalidInput) as caught:
        http.plain_problem(404, "Not here.", headers=fit | headers)
    assert caught.value.argument == "headers"


def test_response_fields(ledger: FreeTier) -> None:
    """The two fields of every answer: of what was decided, and once it was settled, of that."""
    free = ledger.reserve(Request("free", "ada", "trusted", 90))
    gate = ledger.reserve(Request("gate", None, "new", 90))
    assert http.response_fields(free) == {"free_tier": True, "absorbed_sats": 90}
    assert http.response_fields(free.decision) == {"free_tier": True, "absorbed_sats": 90}
    assert http.response_fields(gate) == {"free_tier": False, "absorbed_sats": 0}
    settlement = ledger.settle("free", 30)
    assert http.response_fields(settlement) == {"free_tier": True, "absorbed_sats": 30}
    settled = http.response_fields(ledger.grant("free"))
    assert settled == {"free_tier": True, "absorbed_sats": 30}
    ledger.reserve(Request("released", "ada", "trusted", 9))
    assert http.response_fields(ledger.release("released"))["absorbed_sats"] == 0


def test_payment_required(ledger: FreeTier) -> None:
    """402 has the invoice, what it is for, what the pool pays, and which limit bound that."""
    grant = ledger.reserve(Request("partial", "ada", "trusted", 240))
    reply = http.payment_required(grant, INVOICE, instance="/answers/1")
    assert (reply.status, reply.headers["Cache-Control"]) == (402, "no-store")
    assert reply.body == {
        "type": "about:blank",
        "title": "Payment Required",
        "status": 402,
        "detail": "Pay 40 sats, then ask again with the same id.",
        "instance": "/answers/1",
        "free_tier": True,
        "absorbed_sats": 200,
        "price_sats": 240,
        "charge_sats": 40,
        "bound_by": "budget",
        "invoice": "lnbc1",
        "payment_hash": "the-hash",
        "expires_at": "2030-01-01T18:00:00+00:00",
    }
    assert http.payment_required(grant.decision, INVOICE).body["charge_sats"] == 40
    for amount in (39, 41):
        with pytest.raises(InvalidInput):
            http.payment_required(grant, evolve(INVOICE, amount_sats=amount))
    with pytest.raises(InvalidInput, match="a grant that has not ended"):
        http.payment_required(ledger.release("partial"), INVOICE)


@given(
    request=strategies.requests(most=2000),
    snapshot=strategies.snapshots(most=2000),
    seconds=st.integers(0, 86_399),
)
def test_what_is_left_of_a_budget(request: Request, snapshot: Snapshot, seconds: int) -> None:
    """A known caller is told the budget, what is left of it, and the seconds to midnight, UTC."""
    decision = POLICY.decide(request, snapshot)
    budget = POLICY.budgets[request.tier]
    midnight = datetime(2030, 1, 1, tzinfo=UTC)
    elsewhere = (midnight + timedelta(seconds=seconds)).astimezone(timezone(timedelta(hours=9)))
    fields = http.ratelimit_fields(decision, budget_sats=budget, now=elsewhere)
    if request.identity is None:
        assert fields == {}
        return
    assert fields["RateLimit-Policy"] == f'"budget";q={budget};qu="sats";w=86400'
    match = re.fullmatch(r'"budget";r=(\d+)(?:;t=(\d+))?', fields["RateLimit"])
    assert match
    assert int(match[1]) == max(0, budget - snapshot.identity_used_sats)
    assert match[2] == (str(86_400 - seconds) if budget else None)


@pytest.mark.parametrize(
    ("end", "left"),
    [("open", 110), ("settle", 170), ("release", 200), ("expire", 110), ("late", 170)],
)
def test_what_a_grant_leaves(ledger: FreeTier, clock: Clock, end: str, left: int) -> None:
    """Of a grant that has ended, what it drew in the end is taken off; it is the ledger's room."""
    ledger.reserve(Request("job", "ada", "trusted", 90))
    if end in ("expire", "late"):
        clock.advance(minutes=15)
    if end in ("settle", "late"):
        ledger.settle("job", 30)
    if end == "release":
        ledger.release("job")
    fields = http.ratelimit_fields(ledger.grant("job"), budget_sats=200, now=clock())
    assert fields["RateLimit"].startswith(f'"budget";r={left};')
    assert ledger.decide(Request("next", "ada", "trusted", 1)).rooms["budget"] == left


def test_yesterdays_grant(ledger: FreeTier, clock: Clock) -> None:
    """A grant of another day says the budget, and nothing about today's."""
    grant = ledger.reserve(Request("job", "ada", "trusted", 90))
    clock.advance(days=1)
    fields = http.ratelimit_fields(grant, budget_sats=200, now=clock())
    assert list(fields) == ["RateLimit-Policy"]


def test_a_field_has_15_digits() -> None:
    """A budget beyond what a header field can hold is told as the largest number that it can."""
    policy = FreeTierPolicy(budgets={"elite": MAX_SATS}, seed_sats=MAX_SATS)
    decision = policy.decide(Request("a", "ada", "elite", 1), Snapshot(NOW, MAX_SATS))
    fields = http.ratelimit_fields(decision, budget_sats=MAX_SATS, now=NOW)
    assert fields["RateLimit"] == f'"budget";r={10**15 - 1};t=21600'
    assert f"q={10**15 - 1};" in fields["RateLimit-Policy"]


def test_a_budget_is_checked() -> None:
    """A budget that is none, or a naive time, is named."""
    decision = POLICY.decide(Request("a", "ada", "elite", 1), Snapshot(NOW, 100))
    with pytest.raises(InvalidInput):
        http.ratelimit_fields(decision, budget_sats=-1, now=NOW)
    with pytest.raises(InvalidInput):
        http.ratelimit_fields(decision, budget_sats=1, now=NOW.replace(tzinfo=None))


def test_a_status_is_a_whole_number() -> None:
    """A float that equals a status is refused by name."""
    with pytest.raises(InvalidInput, match="status"):
        http.plain_problem(404.0, "Not here.")  # type: ignore[arg-type]
