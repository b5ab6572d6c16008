"""What a host answers over HTTP, as plain values: fields, problems, 402, what is left of a budget.

Nothing here knows a framework; `freetier.starlette` hands these replies to one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from http import HTTPStatus

from attrs import field, frozen

from freetier.entries import Grant, GrantState
from freetier.errors import (
    Conflict,
    FreeTierError,
    InsufficientBalance,
    InvalidInput,
    NotAuthenticated,
    OutcomeUnknown,
    StalePrice,
    StoreFull,
    StoreReadOnly,
    StoreUnavailable,
    UnknownRequest,
)
from freetier.invoices import Invoice
from freetier.values import (
    Decision,
    Limit,
    Settlement,
    check_sats,
    check_time,
    check_type,
    utc_day,
)

PROBLEM = "application/problem+json"
"""The media type of a problem (RFC 9457)."""
RETRY_AFTER_S = 1

STATUSES: Mapping[type[FreeTierError], HTTPStatus] = {
    NotAuthenticated: HTTPStatus.UNAUTHORIZED,
    InsufficientBalance: HTTPStatus.PAYMENT_REQUIRED,
    UnknownRequest: HTTPStatus.NOT_FOUND,
    Conflict: HTTPStatus.CONFLICT,
    InvalidInput: HTTPStatus.UNPROCESSABLE_ENTITY,
    StoreUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    OutcomeUnknown: HTTPStatus.SERVICE_UNAVAILABLE,
    StalePrice: HTTPStatus.SERVICE_UNAVAILABLE,
    StoreReadOnly: HTTPStatus.SERVICE_UNAVAILABLE,
    StoreFull: HTTPStatus.SERVICE_UNAVAILABLE,
}
"""The status of each error, of its children too; of any other, 500."""

MAX_FIELD_INTEGER = 999_999_999_999_999
"""The largest integer of a header field (RFC 9651, section 3.3.1): less than all the bitcoin."""

_DAY_S = 24 * 3600
# RFC 9110, sections 5.1 and 5.5: nothing here ends a line.
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD_VALUE = re.compile(r"[\t -~\x80-\xff]*")
# Of these the caller may try again soon, with the same id.
_PASSING = (StoreUnavailable, OutcomeUnknown, StalePrice)
_ABOUT_THE_CALLER = (InsufficientBalance, NotAuthenticated)


@frozen
class Reply:
    """An answer, for any framework: its status, its header fields, its body as JSON has it."""

    status: int
    headers: Mapping[str, str] = field(hash=False)
    body: Mapping[str, object] = field(hash=False)


def response_fields(answer: Decision | Grant | Settlement) -> dict[str, bool | int]:
    """`free_tier` (whether the pool pays for any of it) and `absorbed_sats` (how much).

    Of an open grant what it promised, of a settled one what the pool paid, of one that was
    released or has expired nothing. Raises `InvalidInput`.
    """
    check_type("answer", answer, Decision, Grant, Settlement)
    absorbed = _absorbed(answer)
    return {"free_tier": absorbed > 0, "absorbed_sats": absorbed}


def payment_required(
    answer: Decision | Grant, invoice: Invoice, *, instance: str | None = None
) -> Reply:
    """402, with the invoice for what the pool does not pay (RFC 9110, section 15.5.3).

    The body is a problem whose further members are the decision's and the invoice's figures.
    Raises `InvalidInput` for a grant that has ended, and for an invoice that does not ask for
    what is charged.
    """
    check_type("answer", answer, Decision, Grant)
    check_type("invoice", invoice, Invoice)
    if isinstance(answer, Grant) and answer.state not in (GrantState.OPEN, GrantState.UNHELD):
        raise InvalidInput("answer", str(answer.state), "a grant that has not ended")
    if invoice.amount_sats != answer.charge_sats:
        raise InvalidInput("invoice", invoice.amount_sats, f"one of {answer.charge_sats} sats")
    decision = answer.decision if isinstance(answer, Grant) else answer
    return plain_problem(
        HTTPStatus.PAYMENT_REQUIRED,
        f"Pay {invoice.amount_sats} sats, then ask again with the same id.",
        instance=instance,
        members={
            **response_fields(answer),
            "price_sats": decision.price_sats,
            "charge_sats": decision.charge_sats,
            "bound_by": decision.bound_by,
            "invoice": invoice.bolt11,
            "payment_hash": invoice.id,
            "expires_at": invoice.expires_at.astimezone(UTC).isoformat(),
        },
    )


def problem(error: FreeTierError, *, instance: str | None = None) -> Reply:
    """The problem details (RFC 9457) of an error. `instance` is a URI of this occurrence.

    `error` in the body is the error's class, for programs. `detail` is the error's own message
    only where that is about what the caller sent; else it says what the class means. The message
    of a `Conflict` names who asked first, and one from 500 on is the host's own affair. Raises
    `InvalidInput` for what is no error of this library, and for text that UTF-8 has not.
    """
    check_type("error", error, FreeTierError)
    status = next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), None)
    status = status or HTTPStatus.INTERNAL_SERVER_ERROR
    told = isinstance(error, _ABOUT_THE_CALLER)
    detail = str(error) if told else (type(error).__doc__ or "").partition("\n")[0]
    members: dict[str, object] = {"error": type(error).__name__}
    match error:
        case InvalidInput():  # the value may be the host's own
            detail = f"{error.argument}: expected {error.expected}"
            members |= {"argument": error.argument, "expected": error.expected}
        case InsufficientBalance():
            members |= {"needed_sats": error.needed_sats, "free_sats": error.free_sats}
    headers: dict[str, str] = {}
    if isinstance(error, _PASSING):
        headers["Retry-After"] = str(RETRY_AFTER_S)
    if status is HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Nostr"
    return plain_problem(status, detail, instance=instance, members=members, headers=headers)


def ratelimit_fields(
    answer: Decision | Grant, *, budget_sats: int, now: datetime
) -> dict[str, str]:
    """What is left of the identity's budget today: `RateLimit-Policy` and `RateLimit`.

    As draft-ietf-httpapi-ratelimit-headers has them, counted in sats. `q` is `budget_sats`, what
    the policy lets the tier draw a day. `r` is what is left of it: of a `Decision`, which draws
    nothing, the room as it found it; of a `Grant`, that less what the grant has drawn. `t` is the
    seconds until midnight UTC, rounded up, and is left out where waiting does not help (a budget
    of 0). What was drawn after the answer is not in it.

    Nothing for an anonymous caller, and no `RateLimit` for a grant of another day than `now`.
    Raises `InvalidInput`.
    """
    check_type("answer", answer, Decision, Grant)
    check_sats("budget_sats", budget_sats)
    check_time("now", now)
    decision = answer.decision if isinstance(answer, Grant) else answer
    if Limit.BUDGET not in decision.rooms or Limit.ANONYMOUS in decision.rooms:
        return {}
    quota = min(budget_sats, MAX_FIELD_INTEGER)
    # Without `qu` the unit would be requests; the draft's registry has no sats yet.
    fields = {"RateLimit-Policy": f'"budget";q={quota};qu="sats";w={_DAY_S}'}
    if isinstance(answer, Grant) and utc_day(answer.reserved_at) != utc_day(now):
        return fields
    drawn = _drawn(answer) if isinstance(answer, Grant) else 0
    left = min(max(0, decision.rooms[Limit.BUDGET] - drawn), quota)
    fields["RateLimit"] = f'"budget";r={left}' + (f";t={_to_midnight_s(now)}" if quota else "")
    return fields


def plain_problem(
    status: int,
    detail: str,
    *,
    instance: str | None = None,
    members: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """A problem of the host's own, in the form of the others.

    It has no type but its status, whose phrase is then the title (RFC 9457, section 4.2.1).
    Raises `InvalidInput`, also for text that UTF-8 has not, members that JSON has not, and headers
    that HTTP has not.
    """
    check_type("status", status, int)
    _check_text("detail", detail)
    if instance is not None:
        _check_text("instance", instance)
    _check_members({} if members is None else members)
    _check_headers({} if headers is None else headers)
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        raise InvalidInput("status", status, "a status code of HTTP") from None
    body = {"type": "about:blank", "title": phrase, "status": int(status), "detail": detail}
    if instance is not None:
        body["instance"] = instance
    fixed = {"Content-Type": PROBLEM, "Cache-Control": "no-store"}
    return Reply(int(status), {**fixed, **(headers or {})}, {**body, **(members or {})})


def _check_text(argument: str, value: object) -> None:
    if not isinstance(value, str) or any("\ud800" <= char <= "\udfff" for char in value):
        raise InvalidInput(argument, value, "text without lone surrogates")


def _check_members(members: Mapping[str, object]) -> None:
    check_type("members", members, Mapping)
    try:
        json.dumps({**members}, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError):
        raise InvalidInput("members", members, "names and values that JSON has") from None


def _check_headers(headers: Mapping[str, str]) -> None:
    check_type("headers", headers, Mapping)
    for name, value in headers.items():
        text = isinstance(name, str) and isinstance(value, str)
        if not (text and _FIELD_NAME.fullmatch(name) and _FIELD_VALUE.fullmatch(value)):
            raise InvalidInput("headers", headers, "names and values of header fields")


def _absorbed(answer: Decision | Grant | Settlement) -> int:
    """What the pool pays, as far as is known."""
    match answer:
        case Settlement():
            return answer.absorbed_sats
        case Grant(settlement=Settlement() as settlement):
            return settlement.absorbed_sats
        case Grant(state=GrantState.RELEASED | GrantState.EXPIRED):
            return 0
        case _:
            return answer.absorb_sats


def _drawn(grant: Grant) -> int:
    """What the grant took of the allowance: expiry alone gives none of it back."""
    lapsed = grant.state is GrantState.EXPIRED and grant.settlement is None
    return grant.absorb_sats if lapsed else _absorbed(grant)


def _to_midnight_s(now: datetime) -> int:
    day = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return -((now - day - timedelta(days=1)) // timedelta(seconds=1))
