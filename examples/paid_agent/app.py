"""The HTTP API."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated
from uuid import uuid4

from fastapi import Depends, FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from freetier import InvalidInput, http
from freetier.nostr import verify_nip98
from freetier.starlette import add_handlers, to_response

from . import page
from .background import Crowded
from .desk import REFUNDS, WORK, NotFound, log
from .lightning import Node
from .limits import BodyLimit, Stopping
from .paper import PaperNode
from .schemas import (
    EstimateOut,
    InPath,
    JobOut,
    NewJob,
    NewRequest,
    NewSession,
    PoolOut,
    ProblemOut,
    RefundTo,
    RequestOut,
    SessionOut,
    Text,
    estimate_out,
    job_out,
    pool_out,
    problems,
    request_out,
    session_out,
)
from .service import Service, running
from .sessions import DepositDue
from .settings import Settings
from .store import Overtaken
from .work import Refused, Work

_PAYMENT_HASH = re.compile("[0-9a-f]{64}")


def create_app(
    settings: Settings, *, node: Node | None = None, work: Work | None = None
) -> FastAPI:
    """The app; its database is opened when it starts, and what was interrupted goes on."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with running(settings, node=node, work=work) as service:
            app.state.service = service
            yield

    app = FastAPI(
        title="Paid agent",
        version="1",
        summary="Small text jobs for sats; a community's pool pays what it can.",
        lifespan=lifespan,
        redirect_slashes=False,  # a redirected POST would need a signature for its new URL
        responses=problems(400, 413, 422, 503),
    )
    add_handlers(app)
    app.add_exception_handler(RequestValidationError, _on_bad_request)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Refused, _on_refused)
    app.add_exception_handler(NotFound, _on_not_found)
    app.add_exception_handler(DepositDue, _on_deposit_due)
    app.add_exception_handler(Crowded, _on_too_much)
    app.add_exception_handler(Overtaken, _on_too_much)
    app.add_exception_handler(OperationalError, _on_a_database_away)
    app.add_exception_handler(PoolTimeout, _on_a_database_away)
    app.add_exception_handler(InvalidInput, _on_a_mistake_of_ours)
    app.add_exception_handler(Exception, _on_a_mistake_of_ours)
    app.add_middleware(BodyLimit, most_bytes=100_000)
    app.add_middleware(Stopping)
    _routes(app)
    if settings.lnbits_url is None:
        _paper_routes(app)
    document = app.openapi()  # made once, and kept by the app
    document["components"]["schemas"]["ProblemOut"] = ProblemOut.model_json_schema()
    return app


def get_service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Served = Annotated[Service, Depends(get_service)]


async def get_body(request: Request) -> bytes:
    """The body as it was sent: that is what was signed."""
    return await request.body()


def get_identity(
    request: Request,
    service: Served,
    body: Annotated[bytes, Depends(get_body)],
    authorization: Annotated[str | None, Header()] = None,
) -> str | None:
    """The public key that signed the request (NIP-98); None is anonymous.

    The URL that was signed is the one that callers know this service by, whatever proxies do, and
    whatever a `Host` field would make of it.
    """
    if authorization is None:
        return None
    asked = request.scope["raw_path"].decode("latin-1")
    if request.scope["query_string"]:
        asked += "?" + request.scope["query_string"].decode("latin-1")
    return verify_nip98(
        authorization,
        url=f"{service.settings.url}{asked}",
        method=request.method,
        body=body,
        seen=service.proofs,
    )


Identity = Annotated[str | None, Depends(get_identity)]


def _routes(app: FastAPI) -> None:
    @app.post(
        "/api/jobs", status_code=201, responses={200: {"model": JobOut}, **problems(401, 409)}
    )
    async def create_job(
        new: NewJob, service: Served, identity: Identity, response: Response
    ) -> JobOut:
        """Sell a job. 201: with the invoice to pay, or at work. 200: it was created before."""
        job_id = new.id or uuid4().hex
        _, made = await service.jobs.create(job_id, new.request, identity, new.refund_to)
        job = await service.jobs.advance(job_id, but=WORK | REFUNDS)
        assert job is not None
        service.bring_on_job(job_id)
        response.status_code = 201 if made else 200
        return job_out(job)

    @app.get("/api/jobs/{job_id}", responses=problems(401, 404))
    async def read_job(job_id: InPath, service: Served, identity: Identity) -> JobOut:
        """A job as it stands. Of a job that an identity created, to that identity alone."""
        job = await service.jobs.find(job_id)
        if job is None or job.identity not in (None, identity):
            raise NotFound("There is no such job.")
        return job_out(job)

    @app.post("/api/jobs/{job_id}/refund", responses=problems(401, 404, 409))
    async def refund_job(
        job_id: InPath, to: RefundTo, service: Served, identity: Identity
    ) -> JobOut:
        """Say where a refund goes; it is paid as soon as it is owed."""
        await read_job(job_id, service, identity)
        await service.jobs.refund_to(job_id, to.destination)
        await service.refund_job(job_id)
        return await read_job(job_id, service, identity)

    @app.post(
        "/api/sessions",
        status_code=201,
        responses={200: {"model": SessionOut}, **problems(401, 409)},
    )
    async def open_session(
        new: NewSession, service: Served, identity: Identity, response: Response
    ) -> SessionOut:
        """Open a session. 201: with the invoice for its deposit. 200: it was opened before."""
        session_id = new.id or uuid4().hex
        session, made = await service.sessions.open(session_id, new.deposit_sats, identity)
        response.status_code = 201 if made else 200
        return session_out(session)

    @app.get("/api/sessions/{session_id}", responses=problems(401, 404))
    async def read_session(session_id: InPath, service: Served, identity: Identity) -> SessionOut:
        """A session as it stands. One that an identity opened, to that identity alone."""
        session = await service.sessions.found(session_id)
        if session.identity not in (None, identity):
            raise NotFound("There is no such session.")
        return session_out(session)

    @app.post("/api/sessions/{session_id}/request", responses=problems(401, 402, 404, 409))
    async def serve(
        session_id: InPath, new: NewRequest, service: Served, identity: Identity
    ) -> RequestOut:
        """Do work, and debit what the pool does not pay. 402: the balance does not reach."""
        await read_session(session_id, service, identity)
        # The session's own: no job, payment or other session has an id with a colon in it.
        request_id = f"{session_id}:{new.id or uuid4().hex}"
        return request_out(await service.sessions.serve(session_id, request_id, new.request))

    @app.post("/api/sessions/{session_id}/close", responses=problems(401, 404, 409))
    async def close_session(
        session_id: InPath, to: RefundTo, service: Served, identity: Identity
    ) -> SessionOut:
        """Close a session; what is left of its deposit is paid back."""
        await read_session(session_id, service, identity)
        await service.sessions.close(session_id, to.destination)
        await service.refund_session(session_id)
        return session_out(await service.sessions.found(session_id))

    @app.get("/api/estimate", responses=problems(401))
    async def read_estimate(
        request: Annotated[Text, Query()], service: Served, identity: Identity
    ) -> EstimateOut:
        """What a job would cost this caller now. Nothing is written, nothing is to be paid."""
        made = await service.estimate(request, identity)
        return estimate_out(made, identity, service.settings.tier_of(identity))

    @app.get("/api/pool")
    async def read_pool(service: Served) -> PoolOut:
        """The pool, and its day."""
        async with service.store.reading() as books:
            return pool_out(await books.ledger.pool_status())

    @app.post("/api/lightning/notice", status_code=202, include_in_schema=False)
    async def notice(request: Request, service: Served) -> dict[str, str]:
        """The node's webhook. Anybody may call it, so it is only a reason to ask the node."""
        invoice_id = _notice_of(await request.body())
        service.notice(invoice_id)
        return {"heard": invoice_id}

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def read_page(service: Served) -> str:
        """The pool, its day and the latest grants, for people."""
        return await page.rendered(service)


def _paper_routes(app: FastAPI) -> None:
    @app.post("/api/paper/{payment_hash}/pay", status_code=202, responses=problems(404))
    async def pay(payment_hash: InPath, service: Served) -> dict[str, str]:
        """Pay an invoice on paper: what a wallet would do."""
        assert isinstance(service.node, PaperNode)
        if not await service.node.receive(payment_hash):
            raise NotFound("There is no such invoice.")
        service.notice(payment_hash)
        return {"paid": payment_hash}


def _notice_of(body: bytes) -> str:
    """The payment hash in a notice; LNbits sends the payment as JSON within a JSON string."""
    try:
        payment = json.loads(body)
        if isinstance(payment, str):
            payment = json.loads(payment)
        payment_hash = payment["payment_hash"]
        if _PAYMENT_HASH.fullmatch(payment_hash):
            return str(payment_hash)
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise HTTPException(422, "payment_hash: expected a payment, in JSON")


async def _on_bad_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return _answer(request, 422, f"{where}: {first['msg']}")


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _answer(request, error.status_code, error.detail, error.headers)


async def _on_refused(request: Request, error: Exception) -> Response:
    return _answer(request, 422, f"request: {error}")


async def _on_deposit_due(request: Request, error: Exception) -> Response:
    assert isinstance(error, DepositDue)
    session = error.session
    members: dict[str, object] = {"error": "DepositDue", "deposit_sats": session.deposit_sats}
    detail = "The invoice of the session's deposit is not made yet: ask for the session again."
    if session.invoice:
        detail = f"Pay {session.deposit_sats} sats, the session's deposit, then ask again."
        members |= {
            "invoice": session.invoice.bolt11,
            "payment_hash": session.invoice.id,
            "expires_at": session.invoice.expires_at.isoformat(),
        }
    return _answer(request, 402, detail, members=members)


async def _on_too_much(request: Request, _: Exception) -> Response:
    return _answer(request, 503, "There is too much to do just now.", {"Retry-After": "5"})


async def _on_a_mistake_of_ours(request: Request, error: Exception) -> Response:
    """What callers send was checked before: what the library still refuses is of our making."""
    log.error("%s", error, exc_info=error)
    return _answer(request, 500, "The service made a mistake.")


async def _on_not_found(request: Request, error: Exception) -> Response:
    return _answer(request, 404, str(error))


async def _on_a_database_away(request: Request, error: Exception) -> Response:
    log.error("the database did not answer: %s", error)
    return _answer(request, 503, "The service cannot answer just now.", {"Retry-After": "5"})


def _answer(
    request: Request,
    status: int,
    detail: str,
    headers: Mapping[str, str] | None = None,
    members: Mapping[str, object] | None = None,
) -> Response:
    """The same form of answer as for the errors of freetier."""
    instance = request.scope["path"]
    return to_response(
        http.plain_problem(status, detail, instance=instance, headers=headers, members=members)
    )
