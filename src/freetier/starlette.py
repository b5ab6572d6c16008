"""The replies of `freetier.http`, for Starlette and what is made of it: FastAPI.

app.add_exception_handler(FreeTierError, on_error)
app.add_exception_handler(PaymentRequired, on_payment_required)
"""

from __future__ import annotations

import json

from starlette.requests import Request
from starlette.responses import Response

from freetier import http
from freetier.errors import FreeTierError, InvalidInput
from freetier.http import Reply
from freetier.invoices import Invoice
from freetier.values import Decision, Grant


class PaymentRequired(Exception):  # noqa: N818  # what happened, as the errors of this library read
    """Raised in an endpoint to answer 402, with the invoice. Raises `InvalidInput` as that does."""

    def __init__(self, answer: Decision | Grant, invoice: Invoice) -> None:
        self.reply = http.payment_required(answer, invoice)
        super().__init__(self.reply.body["detail"])


def to_response(reply: Reply) -> Response:
    """The reply as a response."""
    content = json.dumps(reply.body, ensure_ascii=False, allow_nan=False).encode()
    return Response(content, reply.status, reply.headers)


async def on_error(request: Request, error: Exception) -> Response:
    """Answers any error of this library with its problem details."""
    if not isinstance(error, FreeTierError):
        raise InvalidInput("error", error, "an error of freetier")
    return to_response(http.problem(error, instance=request.url.path))


async def on_payment_required(_: Request, error: Exception) -> Response:
    """Answers `PaymentRequired`."""
    if not isinstance(error, PaymentRequired):
        raise InvalidInput("error", error, "PaymentRequired")
    return to_response(error.reply)
