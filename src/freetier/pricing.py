"""Tokens → USD → sats, in `Decimal`, rounded up: the host never works below its cost."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import ROUND_CEILING, Context, Decimal

from attrs import field, frozen

from freetier.entries import PoolStatus
from freetier.errors import InvalidInput, StalePrice
from freetier.values import MAX_SATS, Decision, check_sats, check_time, check_type

SATS_PER_BTC = 100_000_000
TOKENS_PER_RATE = 1_000_000
MAX_TOKENS = 1_000_000_000_000
_EXACT = Context(prec=60)
_MOST = 10**12
_LEAST_BTC_USD = Decimal("0.01")
_MAX_AGE = timedelta(minutes=15)


@frozen
class Rates:
    """What a million tokens cost in USD, the margin on top in per cent, and a bitcoin in USD.

    The two costs and the margin are from 0, the bitcoin price from 0.01, all up to 10^12, as
    `Decimal` (or `int`; never a float). Raises `InvalidInput`.
    """

    input_usd_per_million: Decimal
    output_usd_per_million: Decimal
    margin_pct: Decimal
    btc_usd: Decimal

    def __attrs_post_init__(self) -> None:
        for name in ("input_usd_per_million", "output_usd_per_million", "margin_pct"):
            check_decimal(name, getattr(self, name))
        check_decimal("btc_usd", self.btc_usd, least=_LEAST_BTC_USD)


@frozen
class BtcPrice:
    """What a bitcoin costs in USD (a `Decimal` from 0.01 to 10^12), and when that was quoted.

    Raises `InvalidInput`.
    """

    usd: Decimal
    at: datetime

    def __attrs_post_init__(self) -> None:
        check_decimal("usd", self.usd, least=_LEAST_BTC_USD)
        check_time("at", self.at)

    def fresh_usd(self, now: datetime, *, max_age: timedelta = _MAX_AGE) -> Decimal:
        """The price, if it was quoted within `max_age` of `now`; else raises `StalePrice`.

        Either way: a quote from the future shows that one of two clocks is wrong. `max_age` is
        from 0. Raises `InvalidInput`.
        """
        if not isinstance(max_age, timedelta) or max_age < timedelta(0):
            raise InvalidInput("max_age", max_age, "a timedelta from 0")
        age = check_time("now", now) - self.at
        if abs(age) > max_age:
            raise StalePrice(
                f"the bitcoin price of {self.at.isoformat()} is {age} old at {now.isoformat()}; "
                f"at most {max_age} is allowed"
            )
        return self.usd


@frozen
class Estimate:
    """What work would cost and who would pay for it, before anything is paid or written.

    `price_sats` is what the tokens cost with the margin; `cost_usd` what they cost the host.
    `decision` is the answer that this caller would get now: `charge_sats` of it is what the
    caller would pay. The pool is shown as of `as_of`.
    """

    price_sats: int
    input_tokens: int
    output_tokens: int
    cost_usd: Decimal
    margin_pct: Decimal
    btc_usd: Decimal
    decision: Decision
    balance_sats: int
    available_sats: int
    budgets: Mapping[str, int] = field(hash=False)
    as_of: datetime


def cost_usd(rates: Rates, *, input_tokens: int, output_tokens: int) -> Decimal:
    """What the tokens cost the host, in USD, exact; before the margin. Raises `InvalidInput`."""
    check_type("rates", rates, Rates)
    check_tokens("input_tokens", input_tokens)
    check_tokens("output_tokens", output_tokens)
    inputs = _EXACT.multiply(Decimal(input_tokens), Decimal(rates.input_usd_per_million))
    outputs = _EXACT.multiply(Decimal(output_tokens), Decimal(rates.output_usd_per_million))
    return _EXACT.divide(_EXACT.add(inputs, outputs), Decimal(TOKENS_PER_RATE))


def price_sats(rates: Rates, *, input_tokens: int, output_tokens: int) -> int:
    """The price of the tokens in sats, margin included, rounded up to a whole sat.

    Raises `InvalidInput`, also for a price above all the bitcoin there can be.
    """
    usd = cost_usd(rates, input_tokens=input_tokens, output_tokens=output_tokens)
    factor = _EXACT.divide(_EXACT.add(Decimal(100), Decimal(rates.margin_pct)), Decimal(100))
    # One division, last: a rounded quotient must not push a price that is whole up by a sat.
    numerator = _EXACT.multiply(_EXACT.multiply(usd, factor), Decimal(SATS_PER_BTC))
    sats = _EXACT.divide(numerator, Decimal(rates.btc_usd))
    return check_sats("price_sats", int(sats.to_integral_value(ROUND_CEILING)), most=MAX_SATS)


def estimate(
    rates: Rates, *, input_tokens: int, output_tokens: int, decision: Decision, pool: PoolStatus
) -> Estimate:
    """The estimate of work of so many tokens, from `FreeTier.decide` and `pool_status`.

    Neither of them writes. `decision` must be on the price of these tokens. Raises
    `InvalidInput`.
    """
    price = price_sats(rates, input_tokens=input_tokens, output_tokens=output_tokens)
    check_type("decision", decision, Decision)
    check_type("pool", pool, PoolStatus)
    if decision.price_sats != price:
        raise InvalidInput("decision", decision.price_sats, f"a decision on {price} sats")
    return Estimate(
        price_sats=price,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cost_usd=cost_usd(rates, input_tokens=input_tokens, output_tokens=output_tokens),
        margin_pct=rates.margin_pct,
        btc_usd=rates.btc_usd,
        decision=decision,
        balance_sats=pool.balance_sats,
        available_sats=pool.available_sats,
        budgets=pool.budgets,
        as_of=pool.as_of,
    )


def check_tokens(argument: str, value: object) -> int:
    """`value` if it is an int (not a bool) from 0 to 10^12, else raises `InvalidInput`."""
    if type(value) is int and 0 <= value <= MAX_TOKENS:
        return value
    raise InvalidInput(argument, value, f"a whole number of tokens from 0 to {MAX_TOKENS}")


def check_decimal(argument: str, value: object, *, least: Decimal = Decimal(0)) -> Decimal:
    """`value`, as a `Decimal`, if it is one (or an int) from `least` to 10^12.

    Else raises `InvalidInput`.
    """
    if type(value) is int or (type(value) is Decimal and value.is_finite()):
        exact = Decimal(value)
        if least <= exact <= _MOST:
            return exact
    raise InvalidInput(argument, value, f"a Decimal from {least} to {_MOST}")
