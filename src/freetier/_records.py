"""What the records of jobs and sessions share: checks, steps, and how one follows another."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import NoReturn, Protocol, TypeVar

from attrs import evolve

from freetier.errors import IllegalTransition, InvalidInput
from freetier.values import MAX_ID_LENGTH, check_id, check_time, check_type

MAX_TEXT_LENGTH = 1_000_000


class Step(StrEnum):
    """What the host does next for a job, a session or its requests. Each is safe to do again."""

    INVOICE = "invoice"
    """Have an invoice made for `asked_sats`, one per job and stage, or session: `invoiced`.

    Of a job that the pool pays a part of, no longer than its grant holds: then `expired`.
    """
    PAYMENT = "payment"
    """Ask whether the invoice was paid: `paid`; or past its time, and unpaid: `expired`."""
    EVALUATION = "evaluation"
    """Evaluate the request: `rejected`, `priced` or `work_failed`."""
    GRANT = "grant"
    """`ledger.reserve(request_of(job))`: `granted`."""
    WORK = "work"
    """Do the work: `worked` or `work_failed`."""
    SETTLEMENT = "settlement"
    """Settle, credit what the caller paid in the end: `completed`."""
    RELEASE = "release"
    """`ledger.release` if the pool was to pay, and unless that grant has expired: `failed`."""
    DESTINATION = "destination"
    """Nothing, until the caller says where the refund goes: `refund_to`."""
    REFUND = "refund"
    """Get an invoice of the refund's destination: `refund_begun`."""
    REFUND_PAYMENT = "refund_payment"
    """Pay the refund's invoice, or ask how that went: `refund_paid` or `refund_broken`."""


class Record(Protocol):
    """A record that a host keeps, one version after the other."""

    @property
    def id(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def updated_at(self) -> datetime: ...
    @property
    def version(self) -> int: ...


R = TypeVar("R", bound=Record)


def moved(record: R, at: datetime, **changes: object) -> R:
    """The record's next version. Its time never runs back, whichever host's clock says `at`."""
    later = max(at, record.updated_at)
    following: R = evolve(  # type: ignore[misc]  # every record is an attrs class
        record, updated_at=later, version=record.version + 1, **changes
    )
    return following


def refuse(record: Record, event: str) -> NoReturn:
    """What happened does not fit the record."""
    kind = type(record).__name__.lower()
    raise IllegalTransition(f"{kind} {record.id!r} is {record.state}: {event}")


def ledger_id(kind: str, record_id: str) -> str:
    """What the ledger knows a record by. No two kinds share a name, whatever ids callers choose."""
    return f"{kind}:{record_id}"


def check_record_id(argument: str, kind: str, value: object) -> str:
    """`value` if it is an id, short enough for the ledger to know it by its kind as well."""
    text = check_id(argument, value)
    most = MAX_ID_LENGTH - len(ledger_id(kind, ""))
    if len(text) > most:
        raise InvalidInput(argument, value, f"text of 1 to {most} characters")
    return text


def check_event(argument: str, record: object, kind: type[Record], at: object) -> None:
    """Raises `InvalidInput` unless this is a record of its kind, and a time."""
    check_type(argument, record, kind)
    check_time("at", at)


def check_text(argument: str, value: object, *, least: int = 1) -> str:
    """`value` if it is text that every database stores, else raises `InvalidInput`.

    That is `least` to 1,000,000 characters without NUL and without lone surrogates.
    """
    if type(value) is not str or not least <= len(value) <= MAX_TEXT_LENGTH:
        raise InvalidInput(argument, value, f"text of {least} to {MAX_TEXT_LENGTH} characters")
    if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
        raise InvalidInput(argument, value, "text without NUL and without lone surrogates")
    return value
