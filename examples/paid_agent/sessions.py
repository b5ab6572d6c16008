"""The desk for sessions: a deposit, then requests that are paid from the balance."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

from freetier import Conflict, Request, UnknownRequest, sessions
from freetier.pricing import cost_usd, price_sats
from freetier.sessions import Session, SessionRequest, SessionState, Step

from .desk import Desk, log, now
from .lightning import NodeError, Outcome
from .store import Books
from .work import WorkFailed

Event = Callable[[Books, Session], Awaitable[Session]]


class Refused(Exception):
    """The request is not of the kind that is served; its message is for the caller."""


class SessionDesk(Desk):
    """Opens sessions, serves their requests, and pays back what is left."""

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
        session = await self.find(session_id)
        if (session.deposit_sats, session.identity) != (deposit_sats, identity):
            raise Conflict(f"session {session_id!r} is another one")
        return await self.advance(session_id), made

    async def find(self, session_id: str) -> Session:
        """The session of an id. Raises `UnknownRequest`."""
        async with self.store.reading() as books:
            session = await books.find(books.tables.sessions, session_id)
        if session is None:
            raise UnknownRequest(f"there is no session {session_id!r}")
        return session

    async def close(self, session_id: str, destination: str) -> Session:
        """Close a session; what is left of its deposit goes to the destination."""

        async def close(books: Books) -> None:
            before = await books.find(books.tables.sessions, session_id)
            if before is None:
                raise UnknownRequest(f"there is no session {session_id!r}")
            addressed = sessions.refund_to(before, destination, at=now())
            after = sessions.closed(addressed, at=now())
            if after is not before:
                await books.update(books.tables.sessions, before, after)

        await self.transact(close)
        return await self.advance(session_id)

    async def advance(self, session_id: str) -> Session:
        """Do step after step, until the session waits for somebody. Raises `UnknownRequest`."""
        async with self.alone(session_id):
            session = await self.find(session_id)
            while True:
                try:
                    event = await self._step(session)
                except NodeError as error:
                    log.warning("session %s waits: %s", session_id, error)
                    return session
                if event is None:
                    return session
                before = session
                session = await self.note(self.store.tables.sessions, session_id, event)
                broke = sessions.next_step(before) is Step.REFUND_PAYMENT
                if session.version == before.version or broke:  # as for a job
                    return session

    async def take_up(self, session_id: str) -> None:
        """Bring a session on, also one that expired for want of a payment that has come since."""
        async with self.store.reading() as books:
            session = await books.find(books.tables.sessions, session_id)
        if session is None:
            return
        late = session.state is SessionState.EXPIRED and session.invoice
        if late and await self.node.is_paid(late.id):
            await self.note(self.store.tables.sessions, session_id, _simply(sessions.paid, late))
        await self.advance(session_id)

    async def serve(self, session_id: str, request_id: str, request: str) -> SessionRequest:
        """Admit, compute, settle; or what is known of the request, if it came before.

        Raises `Refused`, `InsufficientBalance`, `Conflict`, `UnknownRequest`, `StalePrice`.
        """
        async with self.alone(request_id):
            known = await self._admitted(session_id, request_id, request)
            return await self._finish(known)

    async def resume(self, request_id: str) -> None:
        """Finish a request that was interrupted."""
        async with self.alone(request_id):
            async with self.store.reading() as books:
                known = await books.find(books.tables.session_requests, request_id)
            if known is not None:
                await self._finish(known)

    async def _admitted(self, session_id: str, request_id: str, request: str) -> SessionRequest:
        verdict = self.work.expect(request)
        if verdict.refused is not None:
            raise Refused(verdict.refused)
        price = price_sats(
            self.settings.rates(),
            input_tokens=verdict.input_tokens,
            output_tokens=verdict.output_tokens,
        )

        async def admit(books: Books) -> SessionRequest:
            known = await books.find(books.tables.session_requests, request_id)
            if known is not None:
                return sessions.repeated(known, session_id, request)
            session = await books.find(books.tables.sessions, session_id)
            if session is None:
                raise UnknownRequest(f"there is no session {session_id!r}")
            # An id of its own: it asks what would be charged, and must meet no answer of old.
            asked = Request(uuid4().hex, session.identity, session.tier, price)
            estimate = await books.ledger.decide(asked)
            held, new = sessions.admitted(session, request_id, request, estimate=estimate, at=now())
            await books.update(books.tables.sessions, session, held)
            await books.insert(books.tables.session_requests, new)
            return new

        return await self.transact(admit)

    async def _finish(self, known: SessionRequest) -> SessionRequest:
        if sessions.next_step_of_request(known) is None:
            return known
        try:
            done = await self.try_to(known.request)
        except WorkFailed as error:
            message = str(error)

            async def fail(
                _: Books, session: Session, request: SessionRequest
            ) -> tuple[Session, SessionRequest]:
                return sessions.request_failed(session, request, message, at=now())

            return await self._note_both(known, fail)
        rates = self.settings.rates()
        tokens = {"input_tokens": done.input_tokens, "output_tokens": done.output_tokens}
        figures: dict[str, Any] = {
            "actual_sats": price_sats(rates, **tokens),
            "actual_cost_usd": cost_usd(rates, **tokens),
            **tokens,
        }

        async def settle(
            books: Books, session: Session, request: SessionRequest
        ) -> tuple[Session, SessionRequest]:
            computed = sessions.computed(request, done.result, **figures, at=now())
            try:
                grant = await books.ledger.record_grant(sessions.request_of(session, computed))
            except Conflict:  # something else has this id in the ledger, and it will stay so
                return sessions.request_failed(session, request, "its id was used before", at=now())
            session, request = sessions.debited(session, computed, grant, at=now())
            if request.charged_sats:
                await books.ledger.credit(request.id, request.charged_sats)
            return session, request

        return await self._note_both(known, settle)

    async def _note_both(
        self,
        known: SessionRequest,
        event: Callable[
            [Books, Session, SessionRequest], Awaitable[tuple[Session, SessionRequest]]
        ],
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

    async def _step(self, session: Session) -> Event | None:
        match sessions.next_step(session):
            case Step.INVOICE:
                made = await self.node.invoice(
                    f"{session.id}:deposit",
                    session.deposit_sats,
                    self.settings.invoice_ttl,
                    "text work, prepaid",
                )
                return _simply(sessions.invoiced, made)
            case Step.PAYMENT:
                assert session.invoice is not None
                paid = await self.ask_of(session.invoice)
                if paid is None:
                    return None
                return (
                    _simply(sessions.paid, session.invoice) if paid else _simply(sessions.expired)
                )
            case Step.REFUND:
                assert session.refund.destination is not None
                to = await self.destination_invoice(session.refund.destination, session.refund.sats)
                return to and _refund_by(*to)
            case Step.REFUND_PAYMENT:
                return await self._refund(session)
            case _:
                return None

    async def _refund(self, session: Session) -> Event | None:
        refund = session.refund
        assert refund.bolt11 is not None
        assert refund.payment_hash is not None
        match await self.pay(refund.bolt11, refund.payment_hash):
            case Outcome.PAID:
                return _simply(sessions.refund_paid, refund.payment_hash)
            case Outcome.FAILED:
                return _simply(sessions.refund_broken, refund.payment_hash)
            case Outcome.PENDING:
                return None


def _refund_by(bolt11: str, payment_hash: str) -> Event:
    """As for a job."""

    async def apply(books: Books, session: Session) -> Session:
        if await books.is_refunding(payment_hash, session.id):
            log.warning("session %s: its refund's invoice is another refund's", session.id)
            return session
        return sessions.refund_begun(session, bolt11, payment_hash, at=now())

    return apply


def _simply(event: Callable[..., Session], *arguments: object) -> Event:
    """An event that asks nothing of the ledger."""

    async def apply(_: Books, session: Session) -> Session:
        return event(session, *arguments, at=now())

    return apply
