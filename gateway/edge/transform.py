"""The model's name as the upstream knows it: in the path of OIP and TF-Serving, in OpenAI's bodies and forms."""

from collections.abc import Awaitable

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.core.body import Replay
from gateway.core.dispatch import as_served
from gateway.core.headers import get
from gateway.edge.form import is_form, rename_in_form
from gateway.errors import BadRequest
from gateway.model import Exchange

_decode_raw = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Transform:
    """Renames where the client's name (an alias, `name@version`) or the model's own differs from `served_as`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        exchange: Exchange = scope["exchange"]
        pool, target = exchange.pool, exchange.target
        assert pool is not None
        assert target is not None, "match and split come first"
        if target.head:
            exchange.path = as_served(target, pool.served_model, pool.served_version)
        elif exchange.named and exchange.named != pool.served_model and exchange.body is not None:
            if get(scope["headers"], b"content-encoding") is not None:
                raise BadRequest("A compressed body cannot name a model by an alias or version.")
            kind = exchange.fields.get(b"content-type", b"")
            if is_form(kind):
                exchange.body = rename_in_form(exchange.body, kind, pool.served_model)
            else:
                exchange.body = rename(exchange.body, pool.served_model)
            receive = Replay(exchange.body, receive)
        return self.app(scope, receive, send)


def rename(body: bytes, model: str) -> bytes:
    """The JSON object with `model` replaced; its other members keep their exact bytes. Raises BadRequest: what was
    skipped to find `model` is read more strictly here, and from deeper in the stack."""
    try:
        members = _decode_raw(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"The request's body is not valid JSON: {error}.") from error
    members["model"] = msgspec.Raw(msgspec.json.encode(model))
    return msgspec.json.encode(members)
