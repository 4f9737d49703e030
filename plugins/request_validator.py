"""Refuses a request whose JSON body breaks the rules, before a model server spends time on it.

Needs `jsonschema-rs` (the extra `validator`): drafts 4 to 2020-12, microseconds a body, and an offline, linear-time
mode, so that neither a `$ref` nor a `pattern` can be made to work for a stranger.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema_rs
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import BadRequest, TooLarge, Unprocessable, UnsupportedMedia
from gateway.plugin import parse_size, read_body

# Where the APIs of model servers say how much may be generated: OpenAI's three, TGI's (/generate), llama.cpp's and
# Ollama's. A path into the body.
_TOKEN_LIMITS = (
    ("max_tokens",),
    ("max_completion_tokens",),
    ("max_output_tokens",),
    ("max_new_tokens",),
    ("parameters", "max_new_tokens"),
    ("n_predict",),
    ("options", "num_predict"),
)
_WITH_BODY = frozenset(("POST", "PUT", "PATCH"))
_DEEPEST = 128  # levels of a body: no API needs ten, and what walks it recursively must not run out of stack
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_LONGEST = 300  # characters of a message: names in it are the client's own


class RequestValidator:
    """`schema` is a JSON Schema, as a mapping or as a file's path (from where the gateway was started); `required`
    names members that must be there; `max_tokens_cap` is the most that a request may ask to have generated, by any of
    the names that the usual servers know. `content_types` are accepted, those of JSON are read, at most `max_bytes`.

    Answers 415 for a kind of body that is not accepted, 413 for one that is too large, 400 for one that is not JSON
    and 422, with the JSON path of the offence (RFC 9535), for one that breaks a rule.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        schema: Mapping[str, Any] | str | None = None,
        required: Sequence[str] = (),
        max_tokens_cap: int | None = None,
        content_types: Sequence[str] = ("application/json",),
        max_bytes: str | int = "1MiB",
    ) -> None:
        if max_tokens_cap is not None and (type(max_tokens_cap) is not int or max_tokens_cap < 1):
            raise ValueError(f"`max_tokens_cap` must be a whole number of at least 1, not {max_tokens_cap!r}")
        self.app = app
        self.validator = _compiled(schema) if schema is not None else None
        self.required = _names("required", required)
        self.cap = max_tokens_cap
        self.content_types = frozenset(name.lower().encode() for name in _names("content_types", content_types))
        self.max_bytes = parse_size(max_bytes)
        if not self.content_types:
            raise ValueError("`content_types` is empty: nothing would be accepted")
        if self.max_bytes < 1:
            raise ValueError("`max_bytes` must be at least 1")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._must_read(scope):
            body, receive = await read_body(scope, receive, self.max_bytes)
            if body is None:
                raise TooLarge(f"The request's body is larger than {self.max_bytes} bytes.")
            self.check(body)
        await self.app(scope, receive, send)

    def check(self, body: bytes) -> None:
        """Raises BadRequest, Unprocessable."""
        value = _decoded(body)
        if not isinstance(value, dict):
            if self.required or self.cap is not None:
                raise Unprocessable("$: the body must be a JSON object")
        else:
            self._check_members(value)
        if self.validator is not None:
            for error in self.validator.iter_errors(value):
                raise Unprocessable(f"{_json_path(error.instance_path)}: {error.message}"[:_LONGEST])

    def _check_members(self, value: dict[str, Any]) -> None:
        for name in self.required:
            if name not in value:
                raise Unprocessable(f"{_json_path([name])}: is required")
        if self.cap is None:
            return
        for path in _TOKEN_LIMITS:
            asked = _member(value, path)
            if asked is not None and not (type(asked) is int and 0 <= asked <= self.cap):
                raise Unprocessable(f"{_json_path(path)}: must be a whole number from 0 to {self.cap}")

    def _must_read(self, scope: Scope) -> bool:
        """True for a JSON body, False for no body and for one that is accepted unread. Raises UnsupportedMedia."""
        fields: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            fields[name] = fields[name] + b"\n" + value if name in fields else value
        is_empty = b"transfer-encoding" not in fields and fields.get(b"content-length", b"0") == b"0"
        if is_empty and scope["method"] not in _WITH_BODY:
            return False
        kind = fields.get(b"content-type", b"").lower().split(b";")[0].strip()
        if kind not in self.content_types or b"\n" in fields[b"content-type"]:  # given twice, it is none
            raise UnsupportedMedia(f"The body's Content-Type must be {_either(self.content_types)}.")
        if kind != b"application/json" and not kind.endswith(b"+json"):
            return False
        if fields.get(b"content-encoding", b"identity").lower() != b"identity":
            raise UnsupportedMedia("A compressed body cannot be checked: send it without Content-Encoding.")
        return True

    def __repr__(self) -> str:
        return f"<RequestValidator schema={self.validator is not None} required={self.required} cap={self.cap}>"


def _compiled(schema: Mapping[str, Any] | str) -> jsonschema_rs.Validator:
    """Raises ValueError, saying where the schema is wrong."""
    if isinstance(schema, str):
        try:
            schema = json.loads(Path(schema).read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"`schema`: cannot read {error.filename}: {error.strerror}") from error
        except ValueError as error:
            raise ValueError(f"`schema`: {schema} is not JSON: {error}") from error
    if not isinstance(schema, Mapping):
        raise TypeError("`schema` must be a mapping, or the path of a JSON file")
    try:
        return jsonschema_rs.validator_for(
            dict(schema), mask="the value", offline=True, pattern_options=jsonschema_rs.RegexOptions()
        )
    except jsonschema_rs.ValidationError as error:
        raise ValueError(f"`schema`: {_json_path(error.instance_path)}: {error.message}") from error


def _decoded(body: bytes) -> Any:
    """The JSON value. What two parsers could read differently (a name given twice, NaN, another charset) is refused, so
    that the model server cannot see another value than the one that was checked (RFC 8259, 4 and 8.1)."""
    try:
        text = body.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair has no UTF-8
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise BadRequest(f"The request's body is not valid JSON: {reason}"[:_LONGEST]) from error
    if text.count("[") + text.count("{") > _DEEPEST:
        _check_depth(value)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("an object names a member twice")
    return members


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(_DEEPEST):
        level = [child for item in level for child in _children(item)]
    if level:
        raise BadRequest(f"The request's body is nested more than {_DEEPEST} levels deep.")


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _member(value: Any, path: Sequence[str]) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _json_path(path: Iterable[str | int]) -> str:
    """RFC 9535, the short form where a name allows it."""
    parts = []
    for step in path:
        if isinstance(step, str) and _IDENTIFIER.fullmatch(step):
            parts.append(f".{step}")
        else:
            parts.append(f"[{json.dumps(step)}]")
    return "$" + "".join(parts)


def _either(kinds: Iterable[bytes]) -> str:
    return " or ".join(sorted(kind.decode() for kind in kinds))


def _names(option: str, names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str) or not all(isinstance(name, str) and name and name.isascii() for name in names):
        raise TypeError(f"`{option}` must be a list of names, not {names!r}")
    return tuple(names)
