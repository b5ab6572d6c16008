"""`FreeTierPolicy.from_env`: strict, and every problem at once."""

from __future__ import annotations

import pytest

from freetier import ConfigError, FreeTierPolicy
from freetier.values import MAX_SATS

SATS_VARIABLES = [
    "FREETIER_BUDGET_NEW",
    "FREETIER_POOL_SEED_SATS",
    "FREETIER_POOL_FLOOR_SATS",
    "FREETIER_TIER_CEILING_NEW",
    "FREETIER_DAILY_RELEASE_SATS",
    "FREETIER_PER_REQUEST_SATS",
    "FREETIER_MIN_CHARGE_SATS",
    "FREETIER_MIN_ABSORB_SATS",
]
NO_NUMBERS = {
    "unit": "1k",
    "minus": "-1",
    "plus": "+1",
    "underscore": "1_000",
    "comma": "1,000",
    "full-width digits": "\uff11\uff12",
    "Arabic digits": "\u0661",
    "empty": "",
    "space": " ",
    "leading space": " 1",
    "trailing newline": "1\n",
    "point": "1.0",
    "exponent": "1e3",
    "hexadecimal": "0x10",
    "word": "none",
    "too long for an int": "1" * 5000,
    "above all the bitcoin": str(MAX_SATS + 1),
}


def problems(environ: dict[str, str]) -> list[str]:
    """The lines of the `ConfigError` that `environ` raises."""
    with pytest.raises(ConfigError) as caught:
        FreeTierPolicy.from_env(environ)
    return str(caught.value).splitlines()


def test_without_a_variable_the_defaults_stand() -> None:
    """Nothing set is the default policy; other programs' variables are not ours."""
    policy = FreeTierPolicy.from_env({"PATH": "/bin", "BUDGET_NEW": "1k"})
    assert policy == FreeTierPolicy()
    assert policy.budgets == {"new": 0, "established": 50, "trusted": 200, "elite": 1000}
    assert (policy.credit_share_bp, policy.seed_sats, policy.floor_sats) == (1000, 10_000, 0)


def test_every_setting_has_its_variable() -> None:
    """Each variable sets its one field."""
    assert FreeTierPolicy.from_env(
        {
            "FREETIER_BUDGET_TRUSTED": "300",
            "FREETIER_POOL_CREDIT_PCT": "2.5",
            "FREETIER_POOL_SEED_SATS": "1",
            "FREETIER_POOL_FLOOR_SATS": "2",
            "FREETIER_TIER_CEILING_NEW": "3",
            "FREETIER_DAILY_RELEASE_SATS": "4",
            "FREETIER_DAILY_RELEASE_PACED": "true",
            "FREETIER_POOL_SHARE_PCT": "5",
            "FREETIER_PER_REQUEST_SATS": "6",
            "FREETIER_MIN_CHARGE_SATS": "7",
            "FREETIER_MIN_ABSORB_SATS": "8",
            "FREETIER_GRANT_TTL_S": "9",
        }
    ) == FreeTierPolicy(
        budgets={"new": 0, "established": 50, "trusted": 300, "elite": 1000},
        credit_share_bp=250,
        seed_sats=1,
        floor_sats=2,
        tier_ceilings={"new": 3},
        daily_release_sats=4,
        daily_release_paced=True,
        pool_share_bp=500,
        per_request_sats=6,
        min_charge_sats=7,
        min_absorb_sats=8,
        grant_ttl_s=9,
    )


def test_any_name_makes_a_tier() -> None:
    """A budget for a tier of the host's own adds it, in lower case, beside the four."""
    policy = FreeTierPolicy.from_env(
        {"FREETIER_BUDGET_GOLD_CARD_2": "7", "FREETIER_TIER_CEILING_GOLD_CARD_2": "70"}
    )
    assert policy.budgets["gold_card_2"] == 7
    assert policy.tier_ceilings == {"gold_card_2": 70}
    assert len(policy.budgets) == 5


def test_names_that_set_something_else_are_left_alone() -> None:
    """The command's ledger and the tests' database have our prefix, and are not the policy's."""
    policy = FreeTierPolicy.from_env({"FREETIER_DB": "x.db", "FREETIER_TEST_DSN": "x"})
    assert policy == FreeTierPolicy()


@pytest.mark.parametrize("variable", SATS_VARIABLES)
@pytest.mark.parametrize("text", NO_NUMBERS.values(), ids=NO_NUMBERS)
def test_a_number_is_ascii_digits_and_nothing_else(variable: str, text: str) -> None:
    """A number is ASCII digits in bounds; the error names the variable and shows the value."""
    (problem,) = problems({variable: text})
    assert problem.startswith(f"{variable}: ")
    assert repr(text)[:20] in problem


@pytest.mark.parametrize(
    ("text", "basis_points"), [("0", 0), ("10", 1000), ("2.5", 250), ("0.01", 1), ("100.00", 10000)]
)
def test_a_percentage_has_two_decimals_at_most(text: str, basis_points: int) -> None:
    """A percentage with at most two decimals is exact in basis points."""
    policy = FreeTierPolicy.from_env({"FREETIER_POOL_CREDIT_PCT": text})
    assert policy.credit_share_bp == basis_points


@pytest.mark.parametrize("variable", ["FREETIER_POOL_CREDIT_PCT", "FREETIER_POOL_SHARE_PCT"])
@pytest.mark.parametrize(
    "text", ["2.555", "101", "100.01", "10%", "-1", "2.", ".5", "2,5", "\uff11", "", " 5", "1e1"]
)
def test_anything_else_is_no_percentage(variable: str, text: str) -> None:
    """A percentage out of bounds or with a third decimal is refused, not rounded."""
    (problem,) = problems({variable: text})
    assert problem.startswith(f"{variable}: ")
    assert repr(text) in problem


@pytest.mark.parametrize("text", ["True", "yes", "1", "on", "", "true "])
def test_yes_is_true_and_no_is_false(text: str) -> None:
    """A switch is `true` or `false`, and nothing that somebody might mean by it."""
    off = FreeTierPolicy.from_env({"FREETIER_DAILY_RELEASE_PACED": "false"})
    assert off.daily_release_paced is False
    assert problems({"FREETIER_DAILY_RELEASE_PACED": text})


@pytest.mark.parametrize(
    ("misspelled", "meant"),
    [
        ("FREETIER_POOL_SEED", "FREETIER_POOL_SEED_SATS"),
        ("FREETIER_POOL_CREDIT_PERCENT", "FREETIER_POOL_CREDIT_PCT"),
        ("FREETIER_BUGDET_NEW", "FREETIER_BUDGET_NEW"),
        ("FREETIER_BUDGETS_TRUSTED", "FREETIER_BUDGET_TRUSTED"),
        ("FREETIER_TIER_CELING_ELITE", "FREETIER_TIER_CEILING_ELITE"),
        ("FREETIER_GRANT_TTL", "FREETIER_GRANT_TTL_S"),
        ("FREETIER_BUDGET_new", "FREETIER_BUDGET_NEW"),
        ("FREETIER_BUGDET_MY_CARD", "FREETIER_BUDGET_MY_CARD"),
    ],
)
def test_a_misspelled_name_never_falls_back_in_silence(misspelled: str, meant: str) -> None:
    """An unknown name with our prefix is an error that says what was meant."""
    assert problems({misspelled: "1"}) == [f"{misspelled}: no such setting; did you mean {meant}?"]


@pytest.mark.parametrize("name", ["FREETIER_", "FREETIER_BUDGET_", "FREETIER_\u00c9", "FREETIER_X"])
def test_an_unknown_name_is_an_error(name: str) -> None:
    """A name that resembles nothing, or that names no tier, is an error all the same."""
    (problem,) = problems({name: "1"})
    assert problem.startswith(f"{name}: no such setting")


def test_all_problems_come_at_once() -> None:
    """Every variable that cannot be used has its line, of whatever sort its problem is."""
    environ = {
        "FREETIER_BUDGET_NEW": "1k",
        "FREETIER_POOL_CREDIT_PCT": "101",
        "FREETIER_POOL_SEDE_SATS": "5",
        "FREETIER_GRANT_TTL_S": "0",
        "FREETIER_MIN_CHARGE_SATS": "0",
        "FREETIER_TIER_CEILING_GOLD": "5",
        "FREETIER_POOL_FLOOR_SATS": "5",
    }
    named = [problem.partition(":")[0] for problem in problems(environ)]
    assert sorted(named) == sorted(environ.keys() - {"FREETIER_POOL_FLOOR_SATS"})


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("FREETIER_TIER_CEILING_GOLD", "5"),
        ("FREETIER_GRANT_TTL_S", "0"),
        ("FREETIER_GRANT_TTL_S", "31622401"),
        ("FREETIER_MIN_CHARGE_SATS", "0"),
        ("FREETIER_MIN_ABSORB_SATS", "0"),
        (f"FREETIER_BUDGET_{'A' * 257}", "5"),
    ],
)
def test_a_policy_that_cannot_be_is_a_config_error(variable: str, text: str) -> None:
    """A number that reads well but makes no policy is a problem of the variable that set it."""
    (problem,) = problems({variable: text})
    assert problem.startswith(f"{variable}: ")
