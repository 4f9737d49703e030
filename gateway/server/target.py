"""A request's target and Host, checked and brought into the scope once, before any layer sees them.

RFC 9112, 3.2: origin-form, absolute-form (whose authority replaces Host); exactly one Host in HTTP/1.1. A gateway is no
forward proxy and no tunnel: authority-form is refused.
"""

import re
from typing import Any

from gateway.core.paths import decode, normalise
from gateway.errors import BadRequest, NotFound
from gateway.model import Header

_AUTHORITY_END = re.compile(rb"[/?#]")
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%\-]*)(?::[0-9]{0,5})?")


def prepare(scope: dict[str, Any]) -> None:
    """Turn `raw_path`, which holds the target as it came, into `raw_path` (normalised), `path` and `query_string`.
    Raises BadRequest, NotFound; the scope is then good enough to be logged."""
    target: bytes = scope["raw_path"]
    path, _, query = target.partition(b"?")
    scope["raw_path"], scope["query_string"] = path, query
    headers: list[Header] = scope["headers"]
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1 or (not hosts and scope["http_version"] == "1.1"):
        raise BadRequest("A request has exactly one Host.")
    if hosts and _HOST.fullmatch(hosts[0]) is None:
        raise BadRequest("The request's Host is not a host.")
    if path[:1] != b"/":
        path = _origin_form(scope, target)
        path, _, scope["query_string"] = path.partition(b"?")
    if b"#" in target:
        raise BadRequest("The request's target contains a fragment.")
    path = normalise(path)
    scope["raw_path"] = path
    scope["path"] = decode(path)


def _origin_form(scope: dict[str, Any], target: bytes) -> bytes:
    if target == b"*" and scope["method"] == "OPTIONS":
        raise NotFound("The server as a whole has no options.")
    scheme, separator, rest = target.partition(b"://")
    if not separator or scheme.lower() not in (b"http", b"https"):
        raise BadRequest("The request's target is neither a path nor an http(s) URL.")
    end = _AUTHORITY_END.search(rest)
    cut = end.start() if end else len(rest)
    authority, path = rest[:cut], rest[cut:]
    if not authority or _HOST.fullmatch(authority) is None:
        raise BadRequest("The request's target has no usable authority.")
    scope["headers"] = [h for h in scope["headers"] if h[0] != b"host"]
    scope["headers"].append((b"host", authority))
    return path if path[:1] == b"/" else b"/" + path
