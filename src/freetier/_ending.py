"""The figures of an ending against its grant's: rule 6 of the decisions' reference."""

from __future__ import annotations

from collections.abc import Iterator

from freetier.entries import Entry, Kind


def faults_of_an_ending(entry: Entry, absorb: int, charge: int) -> Iterator[tuple[int, str]]:
    """The invariants that the figures break, and how, if the grant absorbs and charges so much."""
    absorbed, uncovered = entry.absorb_sats or 0, entry.uncovered_sats or 0
    pool_part, charged = absorbed + uncovered, entry.charge_sats or 0
    refund, overrun = entry.refund_sats or 0, entry.overrun_sats or 0
    if entry.kind in (Kind.RELEASE, Kind.EXPIRE):
        if (absorbed, uncovered, charged, refund, overrun) != (0, 0, 0, 0, 0):
            yield 10, f"{entry.kind} with figures of a settlement"
        return
    if absorbed < 0 or uncovered < 0 or pool_part > absorb:
        yield 10, f"absorbed {absorbed}, uncovered {uncovered}, of {absorb}"
    if charged + refund != charge or charged < 0 or refund < 0:
        yield 10, f"charged {charged} and refunded {refund} of {charge}"
    if charged > 0 and pool_part != absorb:
        yield 10, "the caller is charged before the pool's part is used up"
    if overrun < 0 or (overrun > 0 and pool_part + charged != entry.price_sats):
        yield 10, f"overrun {overrun} below the price"
    left = entry.balance_sats - entry.reserved_sats
    if entry.kind is Kind.LATE and absorbed > 0 and left < (entry.floor_sats or 0):
        yield 6, "a late settlement below the floor"
