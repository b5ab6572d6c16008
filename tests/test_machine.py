"""A store beside the readable model: the same operations, the same answers, the same journal.

The pool is small, so that limits bind; the clock jumps, so that grants expire and days change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from attrs import define, evolve, field
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from freetier.entries import Entry, Kind
from freetier.errors import FreeTierError
from freetier.memory import MemoryRepository
from freetier.policy import FreeTierPolicy
from freetier.postgres import PostgresRepository
from freetier.repository import Repository
from freetier.service import AsyncFreeTier, FreeTier
from freetier.sqlite import AsyncSQLiteRepository, SQLiteRepository
from freetier.testing import Clock
from freetier.testing.async_contract import Blocking, blocking
from freetier.values import Request
from tests.postgres_server import Server
from tests.stores import SCHEMA, copied, migrated

from .figures import Count

# Few names, so that operations meet; a few with other figures, so that they conflict.
REQUEST_IDS = st.integers(0, 25).map("job-{}".format)
IDENTITIES = st.sampled_from(["ada", "bob", "cyd", "ada", None])
TIERS = st.sampled_from(["elite", "trusted", "established", "new"])
SATS = st.integers(0, 60)
KEYS = st.integers(0, 6).map("key-{}".format)

REQUESTS = st.builds(Request, REQUEST_IDS, IDENTITIES, TIERS, SATS)

# Any of the limits, none so tight that nothing ever happens.
POLICIES = st.builds(
    FreeTierPolicy,
    budgets=st.just({"new": 0, "established": 30, "trusted": 60, "elite": 90}),
    seed_sats=st.just(120),
    credit_share_bp=st.just(1250),
    floor_sats=st.sampled_from([0, 10]),
    tier_ceilings=st.sampled_from([{}, {"elite": 100}, {"trusted": 40}]),
    daily_release_sats=st.sampled_from([None, None, 110]),
    daily_release_paced=st.booleans(),
    pool_share_bp=st.sampled_from([None, None, 5000]),
    per_request_sats=st.sampled_from([None, None, 35]),
    min_charge_sats=st.sampled_from([1, 5]),
    min_absorb_sats=st.sampled_from([1, 5]),
)


OpenStore = Callable[[], AbstractContextManager[Repository]]


@define
class Tally:
    """How many steps were compared, and which entries they wrote."""

    steps: int = 0
    kinds: Counter[Kind] = field(factory=Counter)


def ledger_on(store: Any, policy: FreeTierPolicy, clock: Clock) -> Any:
    """A ledger on a store; on what a blocking face hides, an async one behind such a face."""
    if isinstance(store, Blocking):
        return Blocking(AsyncFreeTier(policy, store.target, clock=clock), store.loop)
    return FreeTier(policy, store, clock=clock)


class LedgerMachine(RuleBasedStateMachine):
    """Every operation gives the same on both, and breaks no invariant."""

    def __init__(self, open_store: OpenStore, tally: Tally) -> None:
        super().__init__()
        self.opened = ExitStack()
        self.store = self.opened.enter_context(open_store())
        self.tally = tally

    @initialize(policy=POLICIES)
    def open(self, policy: FreeTierPolicy) -> None:
        self.clock = Clock()
        self.memory = MemoryRepository()
        self.journal: list[Entry] = []
        self.set_policy(policy)
        self.both(lambda ledger: ledger.seed())

    def set_policy(self, policy: FreeTierPolicy) -> None:
        self.model = FreeTier(policy, self.memory, clock=self.clock)
        self.ledger = ledger_on(self.store, policy, self.clock)

    def both(self, operation: Callable[[FreeTier], Any]) -> None:
        """Run `operation` on both; it gives the same, or raises the same."""
        answers = []
        for ledger in (self.model, self.ledger):
            try:
                answers.append(operation(ledger))
            except FreeTierError as error:
                answers.append((type(error), str(error)))
        assert answers[0] == answers[1]

    @rule(request=REQUESTS, minutes=st.sampled_from([1, 10, 60]))
    def reserve(self, request: Request, minutes: int) -> None:
        self.both(lambda ledger: ledger.reserve(request, ttl=timedelta(minutes=minutes)))

    @rule(identity=st.sampled_from(["ada", "bob"]), sats=st.integers(1, 40))
    def reserve_anew(self, identity: str, sats: int) -> None:
        request = Request(f"new-{len(self.journal)}-{sats}", identity, "elite", sats)
        self.both(lambda ledger: ledger.reserve(request))

    @rule(request=REQUESTS)
    def record_grant(self, request: Request) -> None:
        self.both(lambda ledger: ledger.record_grant(request))

    @rule(request=REQUESTS)
    def decide(self, request: Request) -> None:
        self.both(lambda ledger: ledger.decide(request))

    @rule(request_id=REQUEST_IDS, actual_sats=st.one_of(st.none(), SATS))
    def settle(self, request_id: str, actual_sats: int | None) -> None:
        self.both(lambda ledger: ledger.settle(request_id, actual_sats))

    @rule(request_id=REQUEST_IDS)
    def release(self, request_id: str) -> None:
        self.both(lambda ledger: ledger.release(request_id))

    @precondition(lambda self: self.memory.status(self.clock.now).open_grants > 0)
    @rule(data=st.data(), actual_sats=st.one_of(st.none(), SATS), release=st.booleans())
    def end_an_open_grant(
        self, data: st.DataObject, actual_sats: int | None, release: bool
    ) -> None:
        grants = [grant.request_id for grant in self.model.open_grants()]
        request_id = data.draw(st.sampled_from(grants))
        if release:
            self.both(lambda ledger: ledger.release(request_id))
        else:
            self.both(lambda ledger: ledger.settle(request_id, actual_sats))

    @precondition(lambda self: self.memory.status(self.clock.now).open_grants > 0)
    @rule(actual_sats=st.one_of(st.none(), SATS))
    def settle_late(self, actual_sats: int | None) -> None:
        grant = next(self.model.open_grants())
        self.clock.now = grant.expires_at or self.clock.now
        self.both(lambda ledger: ledger.settle(grant.request_id, actual_sats))

    @rule(request_id=REQUEST_IDS)
    def grant(self, request_id: str) -> None:
        self.both(lambda ledger: ledger.grant(request_id))

    @rule(key=KEYS, paid_sats=st.integers(1, 60))
    def credit(self, key: str, paid_sats: int) -> None:
        self.both(lambda ledger: ledger.credit(key, paid_sats))

    @rule(key=KEYS, sats=st.integers(1, 30), sponsor=st.sampled_from(["", "Ada"]))
    def donate(self, key: str, sats: int, sponsor: str) -> None:
        self.both(lambda ledger: ledger.donate(key, sats, sponsor=sponsor))

    @rule(key=KEYS, sats=st.integers(-80, 30))
    def adjust(self, key: str, sats: int) -> None:
        self.both(lambda ledger: ledger.adjust(key, sats, note="counted"))

    @rule()
    def sweep(self) -> None:
        self.both(lambda ledger: ledger.sweep())

    @rule(minutes=st.sampled_from([-90, 1, 5, 11, 61, 24 * 60]))
    def let_time_pass(self, minutes: int) -> None:
        self.clock.advance(minutes=minutes)

    @rule(tier=TIERS, budget=st.integers(0, 100))
    def change_a_budget(self, tier: str, budget: int) -> None:
        policy = self.model.policy
        self.set_policy(evolve(policy, budgets={**policy.budgets, tier: budget}))

    @invariant()
    def same_books(self) -> None:
        """The statuses, the open grants, the derived tables and the journals are equal."""
        if not hasattr(self, "ledger"):
            return
        self.both(lambda ledger: ledger.pool_status())
        self.both(lambda ledger: list(ledger.open_grants()))
        assert self.store.books() == self.memory.books()
        fresh = list(self.ledger.journal(after=len(self.journal)))
        assert fresh == list(self.model.journal(after=len(self.journal)))
        self.journal += fresh
        self.tally.steps += 1
        self.tally.kinds.update(entry.kind for entry in fresh)

    @invariant()
    def verified(self) -> None:
        """The invariants hold after every step."""
        if hasattr(self, "ledger"):
            report = self.ledger.verify()
            assert report.ok, report.problems

    def teardown(self) -> None:
        self.opened.close()


def run(open_store: OpenStore, examples: int, *, shrink: bool = True) -> Tally:
    """Run the machine on new, empty stores; what it compared.

    To shrink what fails takes minutes where each try makes a database.
    """
    tally = Tally()
    machine: Any = partial(LedgerMachine, open_store, tally)  # it is typed to be a class
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=50,
            phases=[phase for phase in Phase if shrink or phase is not Phase.shrink],
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    return tally


@contextmanager
def on_sqlite() -> Iterator[Repository]:
    with TemporaryDirectory() as folder, SQLiteRepository(Path(folder) / "ledger.db") as store:
        yield store


@contextmanager
def on_async_sqlite() -> Iterator[Repository]:
    with (
        TemporaryDirectory() as folder,
        blocking(AsyncSQLiteRepository(Path(folder) / "ledger.db")) as store,
    ):
        yield store


@pytest.fixture(scope="module")
def on_postgres(postgres_server: Server) -> Iterator[OpenStore]:
    with migrated(postgres_server) as template:

        @contextmanager
        def open_store() -> Iterator[Repository]:
            with (
                copied(postgres_server, template) as dsn,
                PostgresRepository(dsn, schema=SCHEMA) as store,
            ):
                yield store

        yield open_store


def test_sqlite_is_the_model(count_of: Count) -> None:
    """SQLite answers as the model does, in random interleavings of every operation."""
    steps = run(on_sqlite, 80).steps
    assert steps >= 2_000
    count_of("steps of the state machine on SQLite", steps)


def test_async_sqlite_is_the_model() -> None:
    """So does an async ledger on SQLite."""
    assert run(on_async_sqlite, 10).steps >= 300


def test_postgres_is_the_model(on_postgres: OpenStore, count_of: Count) -> None:
    """So does Postgres."""
    steps = run(on_postgres, 10, shrink=False).steps
    assert steps >= 300
    count_of("steps of the state machine on Postgres", steps)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(4))
def test_sqlite_is_the_model_for_long(part: int, count_of: Count) -> None:
    """The same for at least 25,000 steps in four parts, in which every kind of entry occurs."""
    tally = run(on_sqlite, 200)
    assert tally.steps >= 6_250
    assert set(tally.kinds) == set(Kind)
    count_of("steps of the state machine on SQLite", tally.steps)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_postgres_is_the_model_for_long(on_postgres: OpenStore, count_of: Count) -> None:
    """The same for at least 5,000 steps, in which every kind of entry occurs."""
    tally = run(on_postgres, 125, shrink=False)
    assert tally.steps >= 5_000
    assert set(tally.kinds) == set(Kind)
    count_of("steps of the state machine on Postgres", tally.steps)
