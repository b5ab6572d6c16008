"""Tokens → USD → sats, in `Decimal`, rounded up: the host never works below its cost."""

from __future__ import annotations

from decimal import ROUND_CEILING, Context, Decimal

from attrs import frozen

from freetier.errors import InvalidInput
from freetier.values import MAX_SATS, check_sats

SATS_PER_BTC = 100_000_000
TOKENS_PER_RATE = 1_000_000
MAX_TOKENS = 1_000_000_000_000
_EXACT = Context(prec=60)
_MOST = 10**12
_LEAST_BTC_USD = Decimal("0.01")


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
        for name in ("input_usd_per_million", "output_usd_per_million", "margin_pct", "btc_usd"):
            value = getattr(self, name)
            least = _LEAST_BTC_USD if name == "btc_usd" else 0
            fits = type(value) in (int, Decimal) and Decimal(value).is_finite()
            if not fits or not least <= value <= _MOST:
                raise InvalidInput(name, value, f"a Decimal from {least} to {_MOST}")


def cost_usd(rates: Rates, *, input_tokens: int, output_tokens: int) -> Decimal:
    """What the tokens cost the host, in USD, exact; before the margin. Raises `InvalidInput`."""
    for name, tokens in (("input_tokens", input_tokens), ("output_tokens", output_tokens)):
        if type(tokens) is not int or not 0 <= tokens <= MAX_TOKENS:
            raise InvalidInput(name, tokens, f"a whole number of tokens from 0 to {MAX_TOKENS}")
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
