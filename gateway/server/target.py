"""A request's target and Host, checked and brought into the scope once, before any layer sees them.

RFC 9112, 3.2: origin-form, absolute-form (whose authority replaces Host); exactly one Host in HTTP/1.1. A gateway is no
forward proxy and no tunnel: authority-form is refused.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from gateway.core.paths import decode, known, normalise
from gateway.errors import BadRequest, NotFound

_MEMORABLE = 512  # bytes; longer paths are not worth remembering
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%\-]*)(?::[0-9]{0,5})?")


def prepare(scope: dict[str, Any], fields: Mapping[bytes, bytes]) -> None:
    """Turn `raw_path`, which holds the target as it came, into `raw_path` (normalised), `path` and `query_string`.

    `fields` are the head's by name; fewer than its headers if a name occurs twice. Raises BadRequest, NotFound; the
    scope is then good enough to be logged.
    """
    path: bytes = scope["raw_path"]
    if b"#" in path:
        raise BadRequest("The request's target contains a fragment.")
    if b"?" in path:
        path, _, scope["query_string"] = path.partition(b"?")
        scope["raw_path"] = path
    host = fields.get(b"host")
    if host is None:
        if scope["http_version"] == "1.1":
            raise BadRequest("A request has exactly one Host.")
    elif not _is_host(host):
        raise BadRequest("The request's Host is not a host.")
    headers = scope["headers"]
    if len(fields) != len(headers) and sum(name == b"host" for name, _ in headers) > 1:
        raise BadRequest("A request has exactly one Host.")
    if path[:1] != b"/":
        path = _origin_form(scope, path)
    if len(path) <= _MEMORABLE:
        scope["raw_path"], scope["path"] = known(path)
    else:
        path = scope["raw_path"] = normalise(path)
        scope["path"] = decode(path)


@lru_cache(maxsize=1024)
def _is_host(host: bytes) -> bool:
    return _HOST.fullmatch(host) is not None


def _origin_form(scope: dict[str, Any], target: bytes) -> bytes:
    """The path of a target in absolute-form (its query is cut off already); its authority replaces Host."""
    if target == b"*" and scope["method"] == "OPTIONS":
        raise NotFound("The server as a whole has no options.")
    scheme, separator, rest = target.partition(b"://")
    if not separator or scheme.lower() not in (b"http", b"https"):
        raise BadRequest("The request's target is neither a path nor an http(s) URL.")
    authority, slash, path = rest.partition(b"/")
    if not authority or not _is_host(authority):
        raise BadRequest("The request's target has no usable authority.")
    scope["headers"] = [h for h in scope["headers"] if h[0] != b"host"]
    scope["headers"].append((b"host", authority))
    scope["exchange"].fields = dict(scope["headers"])
    return slash + path or b"/"
