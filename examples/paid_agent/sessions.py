"""The desk for sessions: a deposit, then requests that are paid from the balance."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

from freetier import Conflict, InvalidInput, Request, sessions
from freetier.pricing import cost_usd, price_sats
from freetier.sessions import Session, SessionRequest, SessionState, Step

from .desk import REFUNDS, Desk, Event, NotFound, log, now, simply
from .lightning import Node
from .settings import Settings
from .store import Books, Overtaken, Store
from .work import NOT_SOLD, Refused, Work, WorkFailed, expected

Both = tuple[Session, SessionRequest]


class DepositDue(Exception):
    """The session serves nothing before its deposit is paid."""

    def __init__(self, session: Session) -> None:
        super().__init__(session.id)
        self.session = session


class SessionDesk(Desk[Session]):
    """Opens sessions, serves their requests, and pays back what is left."""

    def __init__(self, store: Store, node: Node, work: Work, settings: Settings) -> None:
        super().__init__(store, node, work, settings, flow=sessions, table=store.tables.sessions)

    async def open(
        self, session_id: str, deposit_sats: int, identity: str | None
    ) -> tuple[Session, bool]:
        """The session of this id, with the invoice to pay it by, and whether it is new.

        Raises `Conflict` if the id is of another session.
        """
        new = sessions.create(
            session_id,
            deposit_sats=deposit_sats,
            identity=identity,
            tier=self.settings.tier_of(identity),
            at=now(),
        )
        async with self.store.writing() as books:
            made = await books.insert(books.tables.sessions, new)
        session = await self.found(session_id)
        if (session.deposit_sats, session.identity) != (deposit_sats, identity):
            raise Conflict(f"session {session_id!r} is another one")
        await self.advance(session_id, but=REFUNDS)
        return await self.found(session_id), made

    async def found(self, session_id: str) -> Session:
        """The session of an id. Raises `NotFound`."""
        session = await self.find(session_id)
        if session is None:
            raise NotFound("There is no such session.")
        return session

    async def close(self, session_id: str, destination: str) -> Session:
        """Close a session; what is left of its deposit goes to the destination.

        Raises `NotFound`, and `Conflict` while it computes, or is refunded elsewhere.
        """

        async def address_and_close(_: Books, session: Session) -> Session:
            addressed = sessions.refund_to(session, destination, at=now())
            return sessions.closed(addressed, at=now())

        await self.found(session_id)
        return await self.note(session_id, address_and_close)

    def may_be_paid_late(self, session: Session) -> bool:
        """See `Desk.may_be_paid_late`."""
        return session.state is SessionState.EXPIRED

    async def own_step(self, session: Session) -> Event[Session] | None:
        """See `Desk.own_step`."""
        if sessions.next_step(session) is not Step.INVOICE:
            return None
        key, memo = f"{session.id}:deposit", "text work, prepaid"
        made = await self.node.invoice(key, session.deposit_sats, self.settings.invoice_ttl, memo)
        return simply(sessions.invoiced, made)

    async def serve(self, session_id: str, request_id: str, request: str) -> SessionRequest:
        """Admit, compute, settle; or what is known of the request, if it came before.

        Raises `Refused`, `DepositDue`, `InsufficientBalance`, `Conflict`, `NotFound`,
        `StalePrice`.
        """
        async with self._turns.alone(request_id):
            known = await self._admitted(session_id, request_id, request)
            return await self._finish(known)

    def is_served(self, request_id: str) -> bool:
        """Whether a call is serving the request, or waits its turn to."""
        return self._turns.busy(request_id)

    async def resume(self, request_id: str) -> None:
        """Finish a request that was interrupted."""
        async with self._turns.alone(request_id):
            async with self.store.reading() as books:
                known = await books.find(books.tables.session_requests, request_id)
            if known is not None:
                await self._finish(known)

    async def _admitted(self, session_id: str, request_id: str, request: str) -> SessionRequest:
        async with self.store.reading() as books:
            known = await books.find(books.tables.session_requests, request_id)
        if known is not None:
            return sessions.repeated(known, session_id, request)
        session = await self.found(session_id)
        if session.state is SessionState.AWAITING_PAYMENT:
            raise DepositDue(session)
        verdict = expected(self.work, request)
        price = price_sats(
            self.settings.rates(),
            input_tokens=verdict.input_tokens,
            output_tokens=verdict.output_tokens,
        )

        async def admit(books: Books) -> SessionRequest:
            session = await books.find(books.tables.sessions, session_id)
            assert session is not None
            # An id of its own: it asks what would be charged, and must meet no answer of old.
            asked = Request(uuid4().hex, session.identity, session.tier, price)
            try:
                estimate = await books.ledger.decide(asked)
            except InvalidInput as error:  # a tier that the policy has no more, say
                log.error("session %s: %s", session_id, error)
                raise Refused(NOT_SOLD) from error
            held, new = sessions.admitted(
                session,
                request_id,
                request,
                estimate=estimate,
                promised_elsewhere_sats=await books.promised_elsewhere(session),
                at=now(),
            )
            await books.update(books.tables.sessions, session, held)
            if not await books.insert(books.tables.session_requests, new):
                raise Overtaken
            return new

        # One after the other, so that each sees what was promised to the ones before.
        async with self._turns.alone(f"admission of {session.identity or session_id}"):
            return await self.transact(admit)

    async def _finish(self, known: SessionRequest) -> SessionRequest:
        if sessions.next_step_of_request(known) is None:
            return known
        if sessions.next_step_of_request(known) is Step.SETTLEMENT:
            return await self._note_both(known, _settle)
        rates = self.settings.rates()
        try:
            done = await self.try_to(known.request)
            tokens = {"input_tokens": done.input_tokens, "output_tokens": done.output_tokens}
            figures: dict[str, Any] = {
                "actual_sats": price_sats(rates, **tokens),
                "actual_cost_usd": cost_usd(rates, **tokens),
                **tokens,
            }
            sessions.computed(known, done.result, **figures, at=now())
        except WorkFailed as error:
            return await self._note_both(known, _failing(str(error)))
        except InvalidInput as error:  # no text that can be kept, or no figures
            log.error("request %s: what the work gave: %s", known.id, error)
            return await self._note_both(known, _failing("the work gave nothing that can be kept"))

        async def compute(_: Books, session: Session, request: SessionRequest) -> Both:
            return session, sessions.computed(request, done.result, **figures, at=now())

        async def compute_and_settle(
            books: Books, session: Session, request: SessionRequest
        ) -> Both:
            return await _settle(books, *await compute(books, session, request))

        try:
            return await self._note_both(known, compute_and_settle)
        except Exception:
            await self._note_both(known, compute)  # so that it is not done again
            raise

    async def _note_both(
        self,
        known: SessionRequest,
        event: Callable[[Books, Session, SessionRequest], Awaitable[Both]],
    ) -> SessionRequest:
        """Note what an event makes of a session and its request, in one transaction."""

        async def apply(books: Books) -> SessionRequest:
            session = await books.find(books.tables.sessions, known.session_id)
            request = await books.find(books.tables.session_requests, known.id)
            assert session is not None
            assert request is not None
            after, done = await event(books, session, request)
            if done is not request:
                await books.update(books.tables.sessions, session, after)
                await books.update(books.tables.session_requests, request, done)
            return done

        return await self.transact(apply)


async def _settle(books: Books, session: Session, request: SessionRequest) -> Both:
    """Let the ledger decide on the real cost, debit what it leaves, credit the pool with that."""
    try:
        grant = await books.ledger.record_grant(sessions.request_of(session, request))
    except InvalidInput as error:  # a tier that the policy has no more, say
        log.error("request %s: %s", request.id, error)
        return sessions.request_failed(session, request, NOT_SOLD, at=now())
    session, request = sessions.debited(session, request, grant, at=now())
    if request.charged_sats:
        await books.ledger.credit(request.ledger_id, request.charged_sats)
    return session, request


def _failing(message: str) -> Callable[[Books, Session, SessionRequest], Awaitable[Both]]:
    """The work broke."""

    async def fail(_: Books, session: Session, request: SessionRequest) -> Both:
        return sessions.request_failed(session, request, message, at=now())

    return fail
