"""Hypothesis strategies for the nouns, and for policies in which limits bind."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from freetier.policy import FreeTierPolicy
from freetier.values import MAX_SATS, WHOLE_BP, Request, Snapshot

TIERS = ("new", "established", "trusted", "elite")


def sats(most: int = MAX_SATS) -> st.SearchStrategy[int]:
    """Amounts from 0 to `most`, small ones and the bounds more often."""
    return st.one_of(st.integers(0, min(most, 300)), st.integers(0, most), st.just(most))


def ids() -> st.SearchStrategy[str]:
    """Ids that every function takes."""
    return st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1).map(
        lambda text: "".join("-" if char in "<>&" else char for char in text)[:256]
    )


def requests(tiers: Sequence[str] = TIERS, most: int = MAX_SATS) -> st.SearchStrategy[Request]:
    """Requests of these tiers, some of them anonymous, for up to `most` sats."""
    return st.builds(
        Request, ids(), st.one_of(st.none(), ids()), st.sampled_from(tiers), sats(most)
    )


@st.composite
def snapshots(draw: st.DrawFn, most: int = MAX_SATS) -> Snapshot:
    """Snapshots that a ledger could show: 0 <= reserved <= balance, an identity within its tier."""
    balance = draw(sats(most))
    everybody = draw(sats(most))
    tier = draw(st.integers(0, everybody))
    return Snapshot(
        at=draw(st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1))).replace(tzinfo=UTC),  # noqa: DTZ001
        balance_sats=balance,
        reserved_sats=draw(st.integers(0, balance)),
        identity_used_sats=draw(st.integers(0, tier)),
        tier_used_sats=tier,
        pool_used_sats=everybody,
    )


@st.composite
def policies(draw: st.DrawFn, most: int = MAX_SATS) -> FreeTierPolicy:
    """Policies over `TIERS` with any of the built-in limits on."""
    optional: dict[str, Any] = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "tier_ceilings": st.dictionaries(st.sampled_from(TIERS), sats(most)),
                "daily_release_sats": sats(most),
                "daily_release_paced": st.booleans(),
                "pool_share_bp": st.integers(0, WHOLE_BP),
                "per_request_sats": sats(most),
                "min_charge_sats": st.integers(1, 50),
                "min_absorb_sats": st.integers(1, 50),
            },
        )
    )
    return FreeTierPolicy(
        budgets={"new": 0} | {tier: draw(sats(most)) for tier in TIERS[1:]},
        floor_sats=draw(sats(min(most, 1000))),
        **optional,
    )
