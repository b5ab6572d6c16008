"""The time of a database that has no fine clock of its own: this machine's."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TypeVar

V = TypeVar("V")


def with_clock(params: Mapping[str, V]) -> dict[str, V | int]:
    """The parameters, with the time where a statement asks for the store's (`now_us` is None)."""
    filled: dict[str, V | int] = dict(params)
    if filled.get("now_us", 0) is None:
        filled["now_us"] = time.time_ns() // 1000
    return filled
