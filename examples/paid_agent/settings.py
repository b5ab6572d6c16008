"""What the operator sets, from the environment; each with a default that runs without any node."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from attrs import field, frozen

from freetier import ConfigError, FreeTierPolicy
from freetier.errors import shown
from freetier.jobs import Job
from freetier.nostr import canonical_pubkey
from freetier.pricing import BtcPrice, Rates, check_decimal
from freetier.settings import yes_no
from freetier.values import check_sats

PREFIX = "PAID_AGENT_"


@frozen
class Settings:
    """All of it. `tiers` says which public key is of which tier; others are `tier_of_others`."""

    db: str = "sqlite:///paid_agent.db"
    url: str = "http://127.0.0.1:8080"
    lnbits_url: str | None = None
    lnbits_key: str | None = field(default=None, repr=False)
    plain_addresses: bool = False
    tiers: Mapping[str, str] = field(factory=dict)
    tier_of_others: str = "new"
    eval_sats: int = 0
    invoice_ttl: timedelta = timedelta(minutes=15)
    work_time: timedelta = timedelta(minutes=5)
    poll: timedelta = timedelta(seconds=5)
    input_usd_per_million: Decimal = Decimal(50)
    output_usd_per_million: Decimal = Decimal(200)
    margin_pct: Decimal = Decimal(20)
    btc_usd: Decimal = Decimal(100_000)
    policy: FreeTierPolicy = field(factory=FreeTierPolicy)

    @property
    def grant_ttl(self) -> timedelta:
        """How long a grant is held: who pays at the last moment must still get their work."""
        return self.invoice_ttl + self.work_time

    def btc_price(self) -> BtcPrice:
        """The bitcoin price, as the operator set it. A service that follows a market asks it."""
        return BtcPrice(self.btc_usd, datetime.now(UTC))

    def rates(self) -> Rates:
        """What work costs now. Raises `StalePrice` when the bitcoin price is too old."""
        return Rates(
            self.input_usd_per_million,
            self.output_usd_per_million,
            self.margin_pct,
            self.btc_price().fresh_usd(datetime.now(UTC)),
        )

    def rates_of(self, job: Job) -> Rates:
        """What the work of a job costs: at the margin and the bitcoin price of its quote."""
        assert job.margin_pct is not None
        assert job.btc_usd is not None
        return Rates(
            self.input_usd_per_million, self.output_usd_per_million, job.margin_pct, job.btc_usd
        )

    def tier_of(self, pubkey: str | None) -> str:
        """The tier of a caller: a proof of a key is no trust, the operator's list is."""
        return "new" if pubkey is None else self.tiers.get(pubkey, self.tier_of_others)


def from_env(environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings that the variables say; `FREETIER_…` are the policy's. Raises `ConfigError`."""
    given = {
        name.removeprefix(PREFIX).lower(): text
        for name, text in environ.items()
        if name.startswith(PREFIX)
    }
    values: dict[str, Any] = {}
    for name, text in given.items():
        if name not in _READERS:
            raise ConfigError(f"{PREFIX}{name.upper()}: there is no such setting")
        try:
            values[name] = _READERS[name](text)
        except (ValueError, ArithmeticError) as error:
            raise ConfigError(
                f"{PREFIX}{name.upper()}: {shown(text)} cannot be read: {error}"
            ) from None
    if ("lnbits_url" in values) is not ("lnbits_key" in values):
        raise ConfigError(f"{PREFIX}LNBITS_URL and {PREFIX}LNBITS_KEY go together")
    settings = Settings(policy=FreeTierPolicy.from_env(environ), **values)
    for name, tiers in (
        ("TIERS", settings.tiers.values()),
        ("TIER_OF_OTHERS", [settings.tier_of_others]),
    ):
        for tier in tiers:
            if tier not in settings.policy.budgets:
                raise ConfigError(f"{PREFIX}{name}: tier {tier!r} has no budget")
    return settings


def _url(*schemes: str) -> Callable[[str], str]:
    def read_url(text: str) -> str:
        if not text.startswith(tuple(f"{scheme}:" for scheme in schemes)):
            raise ValueError(f"a URL that begins with {' or '.join(schemes)} is needed")
        return text.rstrip("/")

    return read_url


def _decimal(least: str = "0") -> Callable[[str], Decimal]:
    return lambda text: check_decimal("it", Decimal(text), least=Decimal(least))


def _seconds(least: float = 1) -> Callable[[str], timedelta]:
    def read_seconds(text: str) -> timedelta:
        seconds = float(text)
        if not least <= seconds <= 86_400:
            raise ValueError(f"seconds from {least} to 86400 are needed")
        return timedelta(seconds=seconds)

    return read_seconds


def _tiers(text: str) -> dict[str, str]:
    """`<public key>=<tier>`, separated by commas; a key in hex, or as `npub1…`."""
    pairs = [pair.partition("=") for pair in text.split(",") if pair]
    return {canonical_pubkey(key.strip()): tier.strip() for key, _, tier in pairs}


_READERS: Mapping[str, Callable[[str], Any]] = {
    "db": _url("sqlite", "postgresql"),
    "url": _url("http", "https"),
    "lnbits_url": _url("http", "https"),
    "lnbits_key": str,
    "plain_addresses": yes_no,
    "tiers": _tiers,
    "tier_of_others": str,
    "eval_sats": lambda text: check_sats("it", int(text)),
    "invoice_ttl": _seconds(),
    "work_time": _seconds(),
    "poll": _seconds(least=0.01),
    "input_usd_per_million": _decimal(),
    "output_usd_per_million": _decimal(),
    "margin_pct": _decimal(),
    "btc_usd": _decimal("0.01"),
}
