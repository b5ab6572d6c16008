"""The replies of `freetier.http`, for Starlette and what is made of it: FastAPI.

app.add_exception_handler(FreeTierError, on_error)
app.add_exception_handler(PaymentRequired, on_payment_required)
"""

from __future__ import annotations

import json
import logging
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from freetier import http
from freetier.entries import Grant
from freetier.errors import FreeTierError
from freetier.http import Reply
from freetier.invoices import Invoice
from freetier.values import Decision, check_type

_log = logging.getLogger(__name__)


class PaymentRequired(Exception):  # noqa: N818  # what happened, as the errors of this library read
    """Raised in an endpoint to answer 402, with the invoice. Raises `InvalidInput` as that does."""

    def __init__(self, answer: Decision | Grant, invoice: Invoice) -> None:
        self.reply = http.payment_required(answer, invoice)
        super().__init__(self.reply.body["detail"])


def to_response(reply: Reply) -> Response:
    """The reply as a response. Raises `InvalidInput`."""
    check_type("reply", reply, Reply)
    content = json.dumps(reply.body, ensure_ascii=False, allow_nan=False).encode()
    return Response(content, reply.status, reply.headers)


async def on_error(request: Request, error: Exception) -> Response:
    """The exception handler for `FreeTierError` and `PaymentRequired`; raises any other again.

    What is answered with a status from 500 up is logged with its traceback, by the logger
    `freetier.starlette`: the answer itself says nothing of it.
    """
    if isinstance(error, PaymentRequired):
        return to_response(error.reply)
    if not isinstance(error, FreeTierError):
        raise error
    # In older releases the Host field has a say in `request.url`.
    path = request.scope["path"]
    reply = http.problem(error, instance=path)
    if reply.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.error("%s is answered with %s", path, reply.status, exc_info=error)
    return to_response(reply)


def add_handlers(app: Starlette) -> None:
    """Let the app (a FastAPI app is one) answer with `on_error`. Raises `InvalidInput`."""
    check_type("app", app, Starlette)
    app.add_exception_handler(FreeTierError, on_error)
    app.add_exception_handler(PaymentRequired, on_error)
