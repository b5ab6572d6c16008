"""Sats into the pool: the seed, credits, donations, adjustments."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import freetier
from freetier import Conflict, Credit, FreeTier, FreeTierPolicy, InvalidInput, Kind, Request
from freetier.testing import Clock
from freetier.values import MAX_SATS


def balance(ledger: FreeTier) -> int:
    """The balance, once the books are proved."""
    assert ledger.verify().ok
    return ledger.pool_status().balance_sats


class TestSeed:
    """A pool is seeded once."""

    def test_the_first_seed_stays(self, tmp_path: Path, clock: Clock) -> None:
        """Opened again, with whatever seed, a ledger keeps the one that it has."""
        for seed in (500, 900, 0):
            policy = FreeTierPolicy(seed_sats=seed)
            with freetier.open(tmp_path / "ledger.db", policy=policy, clock=clock) as ledger:
                assert ledger.seed().balance_change == 500
                assert balance(ledger) == 500
                assert ledger.verify().entries == 1

    def test_a_seed_of_0_is_a_seed(self, tmp_path: Path) -> None:
        """A pool that starts empty was seeded too, and is not seeded later."""
        for seed in (0, 900):
            policy = FreeTierPolicy(seed_sats=seed)
            with freetier.open(tmp_path / "ledger.db", policy=policy) as ledger:
                assert balance(ledger) == 0


class TestCredit:
    """Rule 9: paid money is credited once, and exactly over time."""

    def test_the_remainder_is_carried(self, ledger: FreeTier) -> None:
        """Ten payments of 9 sats at 10 % are 9 sats: 0 for the first, then 1 each."""
        credited = [ledger.credit(f"hash-{n}", 9).credited_sats for n in range(10)]
        assert credited == [0, 1, 1, 1, 1, 1, 1, 1, 1, 1]
        assert balance(ledger) == 10_009

    @given(
        st.lists(
            st.tuples(st.integers(1, 100_000), st.sampled_from([0, 1, 333, 1000, 10_000])),
            max_size=8,
        )
    )
    def test_nothing_is_lost(self, payments: list[tuple[int, int]]) -> None:
        """Credited is floor(the sum of all paid x share), whatever the shares were over time."""
        with freetier.open("memory:", policy=FreeTierPolicy(seed_sats=0)) as ledger:
            for number, (paid, share) in enumerate(payments):
                policy = FreeTierPolicy(credit_share_bp=share)
                FreeTier(policy, ledger.repository).credit(f"hash-{number}", paid)
            due = sum(paid * share for paid, share in payments) // 10_000
            assert balance(ledger) == due

    def test_a_payment_is_credited_once(self, ledger: FreeTier) -> None:
        """The notification that arrives twice gets the first credit; nothing more is written."""
        first = ledger.credit("hash", 75)
        assert first == Credit("hash", 75, 7)
        assert ledger.credit("hash", 75) == first
        assert balance(ledger) == 10_007

    def test_a_payment_of_another_amount_is_a_conflict(self, ledger: FreeTier) -> None:
        """One payment hash is one amount."""
        ledger.credit("hash", 70)
        with pytest.raises(Conflict):
            ledger.credit("hash", 71)
        assert balance(ledger) == 10_007

    def test_the_largest_payment(self, ledger: FreeTier) -> None:
        """A tenth of all the bitcoin is credited to the sat; what no longer fits is refused."""
        assert ledger.credit("hash", MAX_SATS).credited_sats == MAX_SATS // 10
        ledger.donate("rest", MAX_SATS - balance(ledger))
        with pytest.raises(InvalidInput) as caught:
            ledger.credit("more", 10)
        assert caught.value.argument == "paid_sats"
        assert balance(ledger) == MAX_SATS


class TestDonation:
    """A sponsor's sats, once a key."""

    def test_a_donation_is_written_once(self, ledger: FreeTier) -> None:
        """The same donation again is the first entry."""
        first = ledger.donate("gift", 500, sponsor="Alice", note="for all")
        assert (first.kind, first.balance_change) == (Kind.DONATION, 500)
        assert (first.sponsor, first.note) == ("Alice", "for all")
        assert ledger.donate("gift", 500, sponsor="Alice", note="for all") == first
        assert balance(ledger) == 10_500

    def test_another_donation_of_that_key_is_a_conflict(self, ledger: FreeTier) -> None:
        """A key is one amount, one sponsor and one note."""
        ledger.donate("gift", 500, sponsor="Alice", note="for all")
        for sats, sponsor, note in (
            (501, "Alice", "for all"),
            (500, "Bob", "for all"),
            (500, "Alice", ""),
        ):
            with pytest.raises(Conflict):
                ledger.donate("gift", sats, sponsor=sponsor, note=note)
        assert balance(ledger) == 10_500

    def test_each_kind_has_its_own_keys(self, ledger: FreeTier) -> None:
        """One key may be a request, a payment, a donation and an adjustment."""
        ledger.reserve(Request("key", "ab", "trusted", 10))
        ledger.credit("key", 10)
        ledger.donate("key", 10)
        ledger.adjust("key", 10, note="found")
        assert balance(ledger) == 10_021


class TestAdjustment:
    """The operator's correction, either way, never below what is promised."""

    def test_either_way(self, ledger: FreeTier) -> None:
        """An adjustment adds or takes, and says why."""
        ledger.adjust("up", 50, note="found")
        assert ledger.adjust("down", -30, note="lost").note == "lost"
        assert ledger.adjust("down", -30, note="lost").balance_change == -30
        assert balance(ledger) == 10_020

    def test_never_below_what_is_reserved(self, ledger: FreeTier) -> None:
        """The pool keeps what open grants were promised, to the sat."""
        ledger.reserve(Request("job", "ab", "trusted", 120))
        with pytest.raises(InvalidInput) as caught:
            ledger.adjust("down", -9_881, note="too much")
        assert caught.value.argument == "sats"
        ledger.adjust("down", -9_880, note="all that is free")
        assert balance(ledger) == ledger.pool_status().reserved_sats == 120

    def test_never_above_all_the_bitcoin(self, ledger: FreeTier) -> None:
        """The pool holds at most all the bitcoin there can be."""
        with pytest.raises(InvalidInput):
            ledger.adjust("up", MAX_SATS - 9_999, note="too much")
        ledger.adjust("up", MAX_SATS - 10_000, note="all there is")
        assert balance(ledger) == MAX_SATS
