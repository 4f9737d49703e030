"""Every way a request can fail, drawn as a tree.

A class says what the client is told (`status`, `code`, `kind`), whose fault it is (`owner`: client, gateway or
upstream) and whether another attempt is safe (`is_retryable`: nothing of the request can have been acted upon).
Layers raise; `edge/rescue.py` answers. Foreign exceptions become one of these at the border, once
(`upstream/connections.py`, in the words of `faults.py`). The JSON shape is the one OpenAI's clients parse.
"""

from collections.abc import Iterable
from typing import ClassVar, Literal

import msgspec

Owner = Literal["client", "gateway", "upstream"]


class GatewayError(Exception):
    """The root: an answer other than what the client asked for."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    kind: ClassVar[str] = "server_error"
    owner: ClassVar[Owner] = "gateway"
    is_retryable: ClassVar[bool] = False
    message: ClassVar[str] = "The gateway failed to handle this request."

    def __init__(self, message: str | None = None, *, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        super().__init__(message or self.message)
        self.headers = list(headers)
        self.given: tuple[int, list[tuple[bytes, bytes]], bytes] | None = None  # status, fields, body: another's words

    def body(self, request_id: str) -> bytes:
        """The JSON that the client reads; it says nothing of the inside beyond the message."""
        error = {"message": str(self), "type": self.kind, "code": self.code, "request_id": request_id}
        return msgspec.json.encode({"error": error})


# --- the client's fault -----------------------------------------------------------------------------------------------


class ClientError(GatewayError):
    status, code, kind, owner = 400, "bad_request", "invalid_request_error", "client"
    message = "The request is malformed."


class BadRequest(ClientError):
    """Anything a client said that cannot be understood (RFC 9110, 15.5.1)."""


class Unauthenticated(ClientError):
    """No or bad credentials (RFC 9110, 15.5.2); carries WWW-Authenticate."""

    status, code, kind = 401, "invalid_credentials", "authentication_error"
    message = "Missing or invalid credentials."


class Forbidden(ClientError):
    """A known caller that may not do this."""

    status, code, kind = 403, "forbidden", "permission_error"
    message = "These credentials do not allow this request."


class NotFound(ClientError):
    status, code = 404, "not_found"
    message = "Nothing is served here."


class ModelNotFound(NotFound):
    code = "model_not_found"
    message = "This model does not exist."


class VersionNotFound(NotFound):
    code = "version_not_found"
    message = "This version of the model does not exist."


class MethodNotAllowed(ClientError):
    status, code = 405, "method_not_allowed"
    message = "This method is not allowed here."


class BodyTimeout(ClientError):
    """The client began a body and went silent (RFC 9110, 15.5.9)."""

    status, code = 408, "request_timeout"
    message = "The request's body did not arrive in time."


class TooLarge(ClientError):
    status, code = 413, "request_too_large"
    message = "The request's body is larger than this route accepts."


class TargetTooLong(ClientError):
    status, code = 414, "target_too_long"
    message = "The request's target is too long."


class Misdirected(ClientError):
    """A host that this connection's handshake does not speak for (RFC 9110, 15.5.20)."""

    status, code = 421, "misdirected_request"
    message = "This host asks for client certificates in another way: open a connection of its own to it."


class UnsupportedMedia(ClientError):
    """A body of a kind that is not taken here (RFC 9110, 15.5.16)."""

    status, code = 415, "unsupported_media_type"
    message = "This kind of body is not accepted here."


class Unprocessable(ClientError):
    """A body that is well-formed and breaks a rule (RFC 9110, 15.5.21)."""

    status, code = 422, "unprocessable_body"
    message = "The request's body breaks a rule of this route."


class TooManyRequests(ClientError):
    """A limit (RFC 6585, 4); carries Retry-After."""

    status, code, kind = 429, "rate_limit_exceeded", "rate_limit_error"
    message = "Too many requests."


class HeadersTooLarge(ClientError):
    """RFC 6585, 5."""

    status, code = 431, "headers_too_large"
    message = "The request's header section is too large."


class ClientLeft(ClientError):
    """The client closed its connection; nobody reads the answer. 499 is nginx's number for it, used in logs only."""

    status, code = 499, "client_closed_request"
    message = "The client left before the answer was complete."


class DeadlineExceeded(ClientError):
    """The time is over that the client itself gave the request (`x-request-timeout`, `grpc-timeout`)."""

    status, code, kind = 504, "deadline_exceeded", "timeout_error"
    message = "The time that was given for this request is over."


# --- the gateway's fault ----------------------------------------------------------------------------------------------


class StoreUnavailable(GatewayError):
    """A store of the gateway's own (keys, limits) is down: never a 401."""

    status, code = 503, "store_unavailable"
    message = "The gateway cannot decide this request right now."


class PluginTimeout(GatewayError):
    """A plugin that neither answered nor passed the request on, within the route's `timeouts.total`."""

    status, code = 504, "plugin_timeout"
    message = "The gateway did not answer in time."


class LoopDetected(GatewayError):
    """An endpoint leads back to the gateway: it has forwarded this request before, again and again (RFC 5842, 7.2)."""

    status, code = 508, "loop_detected"
    message = "The request goes in a circle."


class Stopped(GatewayError):
    """The gateway ended before the answer did: `shutdown.grace` was over."""

    status, code = 503, "gateway_stopped"
    message = "The gateway stopped before the answer was complete."


class Overloaded(GatewayError):
    status, code = 503, "overloaded"
    message = "The gateway is overloaded."


class AuthenticationBusy(Overloaded):
    """As many callers are being found out about as may be (passwords, tokens, another service); carries Retry-After."""

    code = "authentication_busy"
    message = "Too many callers are being looked at."


class QueueFull(Overloaded):
    """As many requests wait for this model as may; carries Retry-After."""

    code = "queue_full"
    message = "Too many requests wait for this model."


class QueueTimeout(Overloaded):
    """There was no room for this request in the time that it may wait; carries Retry-After."""

    code = "queue_timeout"
    message = "This model had no room for the request in time."


# --- the upstream's fault ---------------------------------------------------------------------------------------------


class UpstreamError(GatewayError):
    status, code, owner = 502, "upstream_error", "upstream"
    message = "The model server failed to answer."


class NoEndpoint(UpstreamError):
    """No endpoint of the pool is up; carries Retry-After."""

    status, code = 503, "no_endpoint_available"
    message = "No endpoint of this model is available."


class UpstreamUnwilling(UpstreamError):
    """It answered that it cannot now (429, 502, 503, 504); raised only where something else is tried instead."""

    status, code = 503, "upstream_unwilling"
    message = "The model server is not able to answer now."


class ConnectFailed(UpstreamError):
    """Refused, unreachable, a name that does not resolve: no byte of the request was sent."""

    code, is_retryable = "upstream_unreachable", True
    message = "The model server could not be reached."


class UpstreamUntrusted(ConnectFailed):
    """No TLS with the model server; the message says which kind of certificate error it is."""

    code = "upstream_untrusted"
    message = "The model server's certificate cannot be trusted."


class ConnectTimeout(ConnectFailed):
    status, code = 504, "upstream_connect_timeout"
    message = "The model server did not accept the connection in time."


class UpstreamClosed(UpstreamError):
    """The connection ended before the first byte of an answer."""

    code = "upstream_closed"
    message = "The model server closed the connection without an answer."


class StaleConnection(UpstreamClosed):
    """A kept-alive connection ended just as it was used again: the request was not acted upon (RFC 9112, 9.3.1)."""

    is_retryable = True


class UpstreamTruncated(UpstreamError):
    """The connection ended inside an answer; what was sent of it must be seen to be broken."""

    code = "upstream_truncated"
    message = "The model server broke off its answer."


class UpstreamInvalid(UpstreamError):
    """An answer that is not HTTP/1.1 as RFC 9112 has it."""

    code = "upstream_invalid_response"
    message = "The model server's answer is not valid HTTP."


class UpstreamTimeout(UpstreamError):
    """No byte in time: before the first one, between two, or in all."""

    status, code, kind = 504, "upstream_timeout", "timeout_error"
    message = "The model server did not answer in time."
