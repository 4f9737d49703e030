"""A request's target and the fields that are meant for us, checked and brought into the scope once, before any layer
sees them.

RFC 9112, 3.2: origin-form, absolute-form (whose authority replaces Host); exactly one Host in HTTP/1.1. A gateway is no
forward proxy and no tunnel: authority-form is refused. Fields that Connection names go no further than here, so that
they cannot take away what a layer adds under the same name (RFC 9110, 7.6.1).
"""

import re
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Any, Final

from gateway.core.headers import get_all, nominated
from gateway.core.paths import decode, encode_query, known, normalise
from gateway.errors import BadRequest, LoopDetected, MethodNotAllowed, NotFound, TooLarge

# Bytes as numbers: `b"?" in path` makes, and drops, an exception before it looks (1,600 instructions).
_HASH: Final = ord("#")
_QUESTION: Final = ord("?")
_MEMORABLE: Final = 512  # bytes; longer paths are not worth remembering
_ORDINARY_CONNECTION: Final = frozenset((b"keep-alive", b"close", b"Keep-Alive", b""))
_CIRCLE: Final = 8  # gateways in a row; more is an endpoint that leads back here
_DIGITS: Final = 18  # of a length that any server can count: 2^63 has 19
_COUNTED: Final = frozenset(("OPTIONS", "TRACE"))  # by Max-Forwards (RFC 9110, 7.6.2)
_NAME: Final = rb"(?:[A-Za-z0-9._~!$&'()*+,;=\-]|%[2-9A-Fa-f][0-9A-Fa-f])+"
_HOST: Final = re.compile(rb"(?:(?:\[([0-9A-Fa-f:.]+)\]|" + _NAME + rb")(?::[0-9]{1,5})?)?")


def prepare(scope: dict[str, Any], fields: dict[bytes, bytes]) -> None:
    """Turn `raw_path`, which holds the target as it came, into `raw_path` (normalised), `path` and `query_string`.

    `fields` are the head's by name; fewer than its headers if a name occurs twice. Raises GatewayError; the
    scope is then good enough to be logged.
    """
    path: bytes = scope["raw_path"]
    if _HASH in path:
        raise BadRequest("The request's target contains a fragment.")
    if _QUESTION in path:
        path, _, query = path.partition(b"?")
        scope["raw_path"] = path
        scope["query_string"] = encode_query(query)
    host = fields.get(b"host")
    if host is None:
        if scope["http_version"] == "1.1":
            raise BadRequest("A request has exactly one Host.")
    elif not _is_host(host):
        _take_port_off(scope, host)
    length = fields.get(b"content-length")
    if length is not None and len(length) > _DIGITS and len(length.lstrip(b"0")) > _DIGITS:
        raise TooLarge
    headers = scope["headers"]
    is_repeated = len(fields) != len(headers)
    if is_repeated and sum(name == b"host" for name, _ in headers) > 1:
        raise BadRequest("A request has exactly one Host.")
    if b"transfer-encoding" in fields:
        _check_coding(scope)
    if b"connection" in fields and (is_repeated or fields[b"connection"] not in _ORDINARY_CONNECTION):
        _take_nominated(scope)
    if b"via" in fields and sum(value.count(b" gateway") for value in get_all(scope["headers"], b"via")) > _CIRCLE:
        raise LoopDetected  # RFC 9110, 7.6: not for ever
    if scope["method"] in _COUNTED:
        _count_forward(scope, fields)
    if path[:1] != b"/":
        path = _origin_form(scope, path)
    if len(path) <= _MEMORABLE:
        scope["raw_path"], scope["path"] = known(path)
    else:
        path = scope["raw_path"] = normalise(path)
        scope["path"] = decode(path)


def _check_coding(scope: dict[str, Any]) -> None:
    """RFC 9112, 6.1: HTTP/1.0 has no codings, and of HTTP/1.1's we undo chunked alone."""
    codings = get_all(scope["headers"], b"transfer-encoding")
    if scope["http_version"] != "1.1" or len(codings) != 1 or codings[0].lower() != b"chunked":
        raise BadRequest("The only transfer coding that is understood here is chunked, in HTTP/1.1.")


def _take_nominated(scope: dict[str, Any]) -> None:
    gone = nominated(get_all(scope["headers"], b"connection"))
    scope["headers"] = [header for header in scope["headers"] if header[0] not in gone]


def _count_forward(scope: dict[str, Any], fields: dict[bytes, bytes]) -> None:
    """Raises NotFound where the request goes no further, MethodNotAllowed for TRACE: its answer is the request as it
    came, credentials too."""
    if scope["method"] == "TRACE":
        raise MethodNotAllowed(headers=[(b"allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")])
    left = fields.get(b"max-forwards", b"")
    if not left.isdigit():
        return
    if int(left[:9]) == 0:
        raise NotFound("Max-Forwards is 0: the gateway itself has no options.")
    counted = (b"max-forwards", b"%d" % (int(left[:9]) - 1))
    scope["headers"] = [counted if header[0] == b"max-forwards" else header for header in scope["headers"]]


@lru_cache(maxsize=1024)
def _is_host(host: bytes) -> bool:
    found = _HOST.fullmatch(host)
    if found is None or found[1] is None:
        return found is not None
    try:
        IPv6Address(found[1].decode())
    except ValueError:
        return False
    return True


def _take_port_off(scope: dict[str, Any], host: bytes) -> None:
    """`a:` is a host with an empty port (RFC 3986, 3.2.3), which means the same as `a`, and not to everybody."""
    bare = host[:-1]
    if not bare or host[-1:] != b":" or not _is_host(bare):
        raise BadRequest("The request's Host is not a host.")
    scope["headers"] = [(name, bare) if name == b"host" else (name, value) for name, value in scope["headers"]]
    scope["exchange"].fields = dict(scope["headers"])


def _origin_form(scope: dict[str, Any], target: bytes) -> bytes:
    """The path of a target in absolute-form (its query is cut off already); its authority replaces Host."""
    if target == b"*" and scope["method"] == "OPTIONS":
        raise NotFound("The server as a whole has no options.")
    scheme, separator, rest = target.partition(b"://")
    if not separator or scheme.lower() not in (b"http", b"https"):
        raise BadRequest("The request's target is neither a path nor an http(s) URL.")
    authority, slash, path = rest.partition(b"/")
    authority = authority.removesuffix(b":")
    if not authority or not _is_host(authority):
        raise BadRequest("The request's target has no usable authority.")
    scope["headers"] = [h for h in scope["headers"] if h[0] != b"host"]
    scope["headers"].append((b"host", authority))
    scope["exchange"].fields = dict(scope["headers"])
    return slash + path or b"/"
