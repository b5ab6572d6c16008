"""Settings from `FREETIER_…` variables: strict, and every problem at once.

A misspelled name must not fall back to a default in silence, so an unknown `FREETIER_…` name is
an error. Numbers are ASCII digits, nothing else: no sign, no underscore, no space, no unit.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from attrs import frozen

from freetier.errors import ConfigError, InvalidInput, shown
from freetier.values import MAX_SATS, MAX_TTL_S, WHOLE_BP, check_id

PREFIX = "FREETIER_"
NOT_POLICY = frozenset({"FREETIER_DB", "FREETIER_SCHEMA"})
"""Names with our prefix that set something else: the command's ledger."""
FOR_TESTS = "FREETIER_TEST_"
"""What names begin with that are for this project's own tests."""

_DIGITS = re.compile(r"[0-9]{1,16}", re.ASCII)
_PERCENT = re.compile(r"([0-9]{1,3})(?:\.([0-9]{1,2}))?", re.ASCII)
_TIER = re.compile(r"[A-Z0-9_]+", re.ASCII)


def whole(unit: str, least: int, most: int) -> Callable[[str], int]:
    """Reads a whole number of `unit` from `least` to `most`."""

    def read_whole(text: str) -> int:
        if not _DIGITS.fullmatch(text) or not least <= int(text) <= most:
            raise ValueError(f"a whole number of {unit} from {least} to {most}")
        return int(text)

    return read_whole


def percent(text: str) -> int:
    """A percentage with up to two decimals, as basis points."""
    match = _PERCENT.fullmatch(text)
    share = int(match[1]) * 100 + int((match[2] or "").ljust(2, "0")) if match else WHOLE_BP + 1
    if share > WHOLE_BP:
        raise ValueError("a percentage from 0 to 100 with at most two decimals, as in 2.5")
    return share


def yes_no(text: str) -> bool:
    """`true` or `false`."""
    if text not in ("true", "false"):
        raise ValueError("true or false")
    return text == "true"


_sats = whole("sats", 0, MAX_SATS)
_from_one = whole("sats", 1, MAX_SATS)


@frozen
class Setting:
    """One variable (or, with `per_tier`, a prefix that a tier's name follows) and its field."""

    variable: str
    field: str
    read: Callable[[str], Any]
    per_tier: bool = False


SETTINGS = (
    Setting("FREETIER_BUDGET_", "budgets", _sats, per_tier=True),
    Setting("FREETIER_POOL_CREDIT_PCT", "credit_share_bp", percent),
    Setting("FREETIER_POOL_SEED_SATS", "seed_sats", _sats),
    Setting("FREETIER_POOL_FLOOR_SATS", "floor_sats", _sats),
    Setting("FREETIER_TIER_CEILING_", "tier_ceilings", _sats, per_tier=True),
    Setting("FREETIER_DAILY_RELEASE_SATS", "daily_release_sats", _sats),
    Setting("FREETIER_DAILY_RELEASE_PACED", "daily_release_paced", yes_no),
    Setting("FREETIER_POOL_SHARE_PCT", "pool_share_bp", percent),
    Setting("FREETIER_PER_REQUEST_SATS", "per_request_sats", _sats),
    Setting("FREETIER_MIN_CHARGE_SATS", "min_charge_sats", _from_one),
    Setting("FREETIER_MIN_ABSORB_SATS", "min_absorb_sats", _from_one),
    Setting("FREETIER_GRANT_TTL_S", "grant_ttl_s", whole("seconds", 1, MAX_TTL_S)),
)


def read(environ: Mapping[str, str], tiers: Collection[str]) -> dict[str, Any]:
    """The policy's fields that `environ` sets, where `tiers` are known without it.

    Raises `ConfigError`, a line for each variable that is unknown or has no usable value.
    """
    if not isinstance(environ, Mapping):
        raise InvalidInput("environ", environ, "a mapping of names to text, as os.environ is")
    values: dict[str, Any] = {}
    problems: list[str] = []
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in NOT_POLICY or name.startswith(FOR_TESTS):
            continue
        setting, tier = _find(name)
        if setting is None:
            problems.append(f"{name}: no such setting{_did_you_mean(name)}")
            continue
        try:
            value = setting.read(environ[name])
            if setting.per_tier:
                values.setdefault(setting.field, {})[check_id("tier", tier)] = value
            else:
                values[setting.field] = value
        except InvalidInput as error:
            problems.append(f"{name}: {error}")
        except ValueError as error:
            problems.append(f"{name}: expected {error}, got {shown(environ[name])}")
    problems += sorted(_unknown_tiers(values, tiers))
    if problems:
        raise ConfigError("\n".join(problems))
    return values


def _unknown_tiers(values: dict[str, Any], tiers: Collection[str]) -> Iterator[str]:
    """A line for each ceiling of a tier that no budget makes known."""
    known = {*tiers, *values.get("budgets", {})}
    for tier in values.get("tier_ceilings", {}).keys() - known:
        yield (
            f"FREETIER_TIER_CEILING_{tier.upper()}: no tier {tier!r}; "
            f"FREETIER_BUDGET_{tier.upper()} would make one"
        )


def _find(name: str) -> tuple[Setting | None, str]:
    for setting in SETTINGS:
        if setting.per_tier:
            tier = name.removeprefix(setting.variable)
            if name.startswith(setting.variable) and _TIER.fullmatch(tier):
                return setting, tier.lower()
        elif name == setting.variable:
            return setting, ""
    return None, ""


def _did_you_mean(name: str) -> str:
    """The nearest known name; for one with a tier, the known prefix with the tier kept."""
    close = difflib.get_close_matches(name, list(_candidates(name)), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _candidates(name: str) -> Iterator[str]:
    for setting in SETTINGS:
        if setting.per_tier:
            words = setting.variable.count("_")
            yield setting.variable + name.split("_", words)[-1].upper()
        else:
            yield setting.variable
    yield from NOT_POLICY
