"""Identities and tiers for a file that has none: spread by a seeded rule, the same every time.

The identity of row n is number `h(seed/n) mod identities`; the tier of identity number i follows
from `h(seed/tier/i)`, weighted. h is the first 8 bytes of a SHA-256, as a big-endian number.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from hashlib import sha256
from itertools import accumulate
from typing import Final

from attrs import frozen

from freetier.errors import InvalidInput

TIER_WEIGHTS: Final[Mapping[str, int]] = {"new": 40, "established": 30, "trusted": 20, "elite": 10}
"""Per cent of the identities in each tier; a policy with other tiers has as many in each."""


@frozen
class Spread:
    """The rule for one seed: `identities` of them (from 1), named `id-000` and on.

    Raises `InvalidInput`.
    """

    identities: int
    seed: int
    tiers: tuple[str, ...]

    def __attrs_post_init__(self) -> None:
        if self.identities < 1:
            raise InvalidInput("identities", self.identities, "a whole number from 1")

    def asker(self, row_number: int) -> tuple[str, str]:
        """The identity that asks in a row, and its tier."""
        number = _hash(f"{self.seed}/{row_number}") % self.identities
        return f"id-{number:03}", self._tier(number)

    def _tier(self, number: int) -> str:
        known = set(self.tiers) == set(TIER_WEIGHTS)
        weights = TIER_WEIGHTS if known else dict.fromkeys(self.tiers, 1)
        bounds = list(accumulate(weights.values()))
        point = _hash(f"{self.seed}/tier/{number}") % bounds[-1]
        return list(weights)[bisect_right(bounds, point)]


def _hash(text: str) -> int:
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big")
