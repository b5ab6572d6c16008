"""Tokens → USD → sats: exact in Decimal, and rounded up once, at the end."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from fractions import Fraction
from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freetier import FreeTier, InvalidInput, Request
from freetier.errors import StalePrice
from freetier.pricing import BtcPrice, Rates, cost_usd, estimate, price_sats
from freetier.values import MAX_SATS

MOST_TOKENS = 1_000_000_000_000


def rates(inputs: str = "3", outputs: str = "15", margin: str = "0", btc: str = "100000") -> Rates:
    """At 100,000 USD a bitcoin, a sat is a tenth of a cent."""
    return Rates(Decimal(inputs), Decimal(outputs), Decimal(margin), Decimal(btc))


usd = st.decimals(0, 100_000_000, places=6)
rates_of_all_kinds = st.builds(
    Rates, usd, usd, st.decimals(0, 500, places=2), st.decimals(1, 1_000_000, places=6)
)
tokens = st.integers(0, 1_000_000_000_000)


@given(rates_of_all_kinds, tokens, tokens)
def test_the_price_is_the_exact_price_rounded_up(of: Rates, inputs: int, outputs: int) -> None:
    """The price is the least whole number of sats that covers the cost and the margin."""
    cost = (
        inputs * Fraction(of.input_usd_per_million) + outputs * Fraction(of.output_usd_per_million)
    ) / 1_000_000
    sats = cost * (100 + Fraction(of.margin_pct)) / 100 / Fraction(of.btc_usd) * 100_000_000
    if sats <= MAX_SATS:
        assert price_sats(of, input_tokens=inputs, output_tokens=outputs) == ceil(sats)
    assert Fraction(cost_usd(of, input_tokens=inputs, output_tokens=outputs)) == cost


@given(st.integers(1, 10**12), st.integers(1, 10_000_000))
def test_a_price_that_is_whole_stays(btc: int, sats: int) -> None:
    """A price that is whole is not pushed up by a sat, whatever a bitcoin costs."""
    whole = Rates(Decimal(btc), Decimal(0), Decimal(0), Decimal(btc))
    # When a million tokens cost a bitcoin, a token is 100 sats.
    assert price_sats(whole, input_tokens=sats, output_tokens=0) == sats * 100


@pytest.mark.parametrize(
    ("inputs", "outputs", "sats"),
    [(1_000_000, 0, 3000), (0, 1_000_000, 15_000), (1000, 1000, 18), (1, 0, 1), (0, 0, 0)],
)
def test_prices_to_know(inputs: int, outputs: int, sats: int) -> None:
    """3 and 15 USD a million tokens are 3,000 and 15,000 sats; the least work costs one."""
    assert price_sats(rates(), input_tokens=inputs, output_tokens=outputs) == sats


@pytest.mark.parametrize(("margin", "sats"), [("0", 3000), ("20", 3600), ("0.01", 3001)])
def test_the_margin_is_per_cent_on_top(margin: str, sats: int) -> None:
    """The margin is per cent on top of the cost, and its sat is rounded up too."""
    assert price_sats(rates(margin=margin), input_tokens=1_000_000, output_tokens=0) == sats


def test_the_cost_is_before_the_margin() -> None:
    """The cost in USD leaves the margin out."""
    assert cost_usd(rates(margin="20"), input_tokens=1_000_000, output_tokens=0) == 3


def test_the_hosts_decimal_context_is_not_asked() -> None:
    """A host that works with three digits gets the same price."""
    with localcontext() as context:
        context.prec = 3
        assert price_sats(rates("3.3333"), input_tokens=1_000_000, output_tokens=0) == 3334


@pytest.mark.parametrize(
    "name", ["input_usd_per_million", "output_usd_per_million", "margin_pct", "btc_usd"]
)
@pytest.mark.parametrize(
    "value",
    [
        1.5,
        float("nan"),
        "3",
        True,
        None,
        *map(Decimal, ("NaN", "Infinity", "-1", "1e13")),
        -1,
        10**13,
    ],
    ids=repr,
)
def test_a_rate_is_a_decimal_from_0_to_10_to_the_12(name: str, value: Any) -> None:
    """A rate is a Decimal or an int, finite and in bounds; never a float; the error names it."""
    good = {"input_usd_per_million": 1, "output_usd_per_million": 1, "margin_pct": 1, "btc_usd": 1}
    with pytest.raises(InvalidInput) as caught:
        Rates(**good | {name: value})
    assert caught.value.argument == name


@pytest.mark.parametrize("btc", ["0", "0.009"])
def test_a_bitcoin_costs_at_least_a_cent(btc: str) -> None:
    """A bitcoin for nothing is a mistake, not a price without end."""
    with pytest.raises(InvalidInput):
        rates(btc=btc)


@pytest.mark.parametrize("name", ["input_tokens", "output_tokens"])
@pytest.mark.parametrize("value", [-1, 1.0, True, "1", None, Decimal(1), MOST_TOKENS + 1], ids=repr)
def test_tokens_are_counted_in_whole_numbers(name: str, value: Any) -> None:
    """Tokens are an int from 0 to 10^12; the error names which."""
    with pytest.raises(InvalidInput) as caught:
        price_sats(rates(), **{"input_tokens": 1, "output_tokens": 1} | {name: value})
    assert caught.value.argument == name


def test_the_largest_price_is_all_the_bitcoin() -> None:
    """Nothing costs more than all the bitcoin there can be."""
    a_sat_each = Rates(Decimal(1), Decimal(0), Decimal(0), Decimal(100))
    tokens_for_all = MAX_SATS // 2100
    assert price_sats(a_sat_each, input_tokens=tokens_for_all, output_tokens=0) == tokens_for_all
    with pytest.raises(InvalidInput) as caught:
        price_sats(
            Rates(10**12, 0, 0, Decimal("0.01")),  # type: ignore[arg-type]
            input_tokens=MOST_TOKENS,
            output_tokens=0,
        )
    assert caught.value.argument == "price_sats"


NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
QUOTE = BtcPrice(Decimal(100_000), NOON)


@pytest.mark.parametrize("minutes", [-15, -1, 0, 1, 15])
def test_a_price_is_fresh_for_a_quarter_of_an_hour(minutes: int) -> None:
    """A quote within 15 minutes of now is fresh, whichever of two clocks is ahead."""
    assert QUOTE.fresh_usd(NOON + timedelta(minutes=minutes)) == 100_000


@pytest.mark.parametrize("past", [timedelta(minutes=15), -timedelta(minutes=15)])
def test_an_old_price_is_refused(past: timedelta) -> None:
    """A quote further from now than that is refused, and the error says how old it is."""
    further = timedelta(microseconds=1 if past > timedelta(0) else -1)
    with pytest.raises(StalePrice, match="2030-01-01T12:00:00"):
        QUOTE.fresh_usd(NOON + past + further)
    with pytest.raises(StalePrice):
        QUOTE.fresh_usd(NOON + timedelta(seconds=2), max_age=timedelta(seconds=1))


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("usd", lambda: BtcPrice(Decimal(0), NOON)),
        ("usd", lambda: BtcPrice(100_000.0, NOON)),  # type: ignore[arg-type]
        ("at", lambda: BtcPrice(Decimal(1), NOON.replace(tzinfo=None))),
        ("now", lambda: QUOTE.fresh_usd(NOON.replace(tzinfo=None))),
        ("max_age", lambda: QUOTE.fresh_usd(NOON, max_age=timedelta(seconds=-1))),
        ("max_age", lambda: QUOTE.fresh_usd(NOON, max_age=60)),  # type: ignore[arg-type]
    ],
)
def test_a_quote_is_a_price_at_a_time(argument: str, call: Callable[[], object]) -> None:
    """What is not a price, a time or an age raises an error that names it."""
    with pytest.raises(InvalidInput) as caught:
        call()
    assert caught.value.argument == argument


def test_an_estimate_is_what_decide_says(ledger: FreeTier) -> None:
    """An estimate has the price, the decision on it, and the pool; and nothing was written."""
    before = list(ledger.journal())
    of = rates(margin="20")
    price = price_sats(of, input_tokens=10_000, output_tokens=20_000)
    decision = ledger.decide(Request("estimate", "ada", "trusted", price))
    made = estimate(
        of,
        input_tokens=10_000,
        output_tokens=20_000,
        decision=decision,
        pool=ledger.pool_status(),
    )
    assert (made.price_sats, made.cost_usd, made.btc_usd) == (
        396,
        Decimal("0.33"),
        Decimal(100_000),
    )
    assert (made.decision.absorb_sats, made.decision.charge_sats) == (200, 196)
    assert (made.balance_sats, made.available_sats) == (10_000, 10_000)
    assert made.budgets["elite"] == 1000
    assert list(ledger.journal()) == before


def test_an_estimate_is_on_its_own_price(ledger: FreeTier) -> None:
    """A decision on another price is refused."""
    decision = ledger.decide(Request("estimate", "ada", "trusted", 5))
    with pytest.raises(InvalidInput) as caught:
        estimate(
            rates(),
            input_tokens=1,
            output_tokens=1,
            decision=decision,
            pool=ledger.pool_status(),
        )
    assert caught.value.argument == "decision"
