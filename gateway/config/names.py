"""Names in routes.yaml: of models, versions, header fields, cookies, hosts; prefixes and patterns of paths."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from gateway.config.values import Kind
from gateway.core.headers import HOP_BY_HOP

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e]*")  # RFC 9110, 5.5, without obs-text
_NAME = re.compile(r"[A-Za-z0-9._~+=:,/-]+")  # of RFC 3986's pchar, what is no glob, quote or percent sign
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_PATH = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@%/-]*")  # RFC 3986, 3.3

# The gateway alone writes what describes one connection (RFC 9110, 7.6.1), frames a message (RFC 9112, 6) or names the
# server that is asked (`preserve_host` decides that).
OWN_FIELDS = frozenset(name.decode() for name in HOP_BY_HOP) | {"content-length", "host"}
ALTERNATIVES = ("DNS", "URI", "email", "IP")
_PER = ("key", "principal", "ip", "model")


def parse_field_name(name: str) -> str:
    """A header field's name -> in lower case."""
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"{name!r} is not a header name (RFC 9110, 5.1)")
    return name.lower()


def parse_own_field(name: str) -> str:
    """The same, for a rule that writes or removes it."""
    lowered = parse_field_name(name)
    if lowered in OWN_FIELDS:
        raise ValueError(f"{name!r} is the gateway's own to write: it belongs to one connection or frames the message")
    return lowered


# What no other service's answer and no claim may set: it frames the message, or is the gateway's own to say.
UNSETTABLE = re.compile(
    r"content-.*|expect|keep-alive|proxy-.*|cookie|forwarded|via|x-forwarded-.*|x-gateway-.*|x-request-id|x-model"
    r"|x-model-version|.*_.*"
)


def parse_identity_field(name: str) -> str:
    """The same, for a field that says who is calling. Without "_", which CGI cannot tell from "-"."""
    lowered = parse_own_field(name)
    if UNSETTABLE.fullmatch(lowered):
        raise ValueError(f"{name!r} is not for saying who is calling")
    return lowered


def parse_field_value(value: str) -> str:
    stripped = value.strip(" \t")
    if not _FIELD_VALUE.fullmatch(stripped):
        raise ValueError(f"{value!r} has characters that a header cannot hold (RFC 9110, 5.5)")
    return stripped


def check_distinct(fields: Any) -> Any:
    """Raises ValueError if two keys are one header, written in two ways."""
    seen: dict[str, str] = {}
    for name in fields if isinstance(fields, dict) else ():
        other = seen.setdefault(str(name).lower(), name)
        if other != name:
            raise ValueError(f"{other!r} and {name!r} are the same header")
    return fields


def refuse_none(name: Any) -> Any:
    """No signature proves nothing (RFC 8725, 3.2)."""
    if str(name).lower() == "none":
        raise ValueError(f"{str(name)!r} is no signature: anybody could write such a token")
    return name


def check_cookie(name: str) -> str:
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"{name!r} is not a cookie name (RFC 6265, 4.1.1)")
    return name


def parse_method(name: str) -> str:
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"{name!r} is not a method (RFC 9110, 9.1)")
    return name.upper()


def parse_per(text: str) -> str:
    """What a limit counts by -> the same, a header's name in lower case."""
    kind, colon, name = text.partition(":")
    if kind == "header" and colon:
        return f"header:{parse_field_name(name)}"
    if text not in _PER:
        raise ValueError(f"{text!r} is none of {', '.join(_PER)}, header:NAME")
    return text


def check_model_name(name: str) -> str:
    segments = name.split("/")
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r}: a model's name has letters, digits and . _ ~ + = : , - / only")
    if not {"", ".", ".."}.isdisjoint(segments):
        raise ValueError(f"{name!r}: a model's name has no empty, . or .. segment")
    if "versions" in segments:
        raise ValueError(f'{name!r}: "versions" comes before a version in a path, so no segment of a name can be it')
    return name


def check_version_name(name: str) -> str:
    if not _NAME.fullmatch(name) or not {"/", ":"}.isdisjoint(name) or name in (".", ".."):
        raise ValueError(f"{name!r}: a version's name has letters, digits and . _ ~ + = , - only")
    return name


def parse_host(text: str) -> str:
    """A host without a port -> in lower case, without the final dot."""
    host = text.lower().removesuffix(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in host.split(".")):
        raise ValueError(f"{text!r} is not a host name such as llama.example.com, without a port")
    return host


def parse_host_pattern(text: str) -> str:
    """The same, or a wildcard for its first label."""
    return "*." + parse_host(text[2:]) if text.startswith("*.") else parse_host(text)


def check_alternative(text: str) -> str:
    """A glob of a subjectAltName, in OpenSSL's notation, whose kind is certain: an address of mail is no host."""
    kind, separator, glob = text.partition(":")
    if not separator or kind not in ALTERNATIVES or not glob:
        raise ValueError(f"{text!r} is no subjectAltName: it begins with {', '.join(k + ':' for k in ALTERNATIVES)}")
    return text


def check_path(text: str) -> str:
    if not text.startswith("/") or not _PATH.fullmatch(text):
        raise ValueError(f"{text!r} is not a path: it begins with / and has what RFC 3986, 3.3 allows")
    if not {".", ".."}.isdisjoint(text.split("/")):
        raise ValueError(f"{text!r} has a . or .. segment")
    return text


def check_target(text: str) -> str:
    """A path that may have a query."""
    path, _, query = text.partition("?")
    if not _PATH.fullmatch(query.replace("?", "")):
        raise ValueError(f"{text!r} has characters that a query cannot hold (RFC 3986, 3.4)")
    return check_path(path) and text


def parse_prefix(text: str) -> str:
    """A path's prefix, whole segments -> without the final slash; "" for none."""
    return check_path(text).rstrip("/") if text else ""


def parse_match_prefix(text: str) -> str:
    """A prefix that is looked for; "/" is every path."""
    return parse_prefix(check_path(text)) or "/"


def check_pattern(text: str) -> str:
    """A path is bytes when it is rewritten, so the pattern must make sense for bytes."""
    try:
        re.compile(text.encode())
    except re.error as error:
        raise ValueError(f"{text!r} is not a regular expression: {error}") from None
    return text


def check_replacement(pattern: str, replace: str) -> None:
    """Raises ValueError if `replace` refers to a group that `pattern` lacks."""
    try:
        # The added branch always matches, so the template is read.
        re.compile(f"{pattern}|".encode()).sub(replace.encode(), b"")
    except (re.error, IndexError) as error:
        raise ValueError(f"replace: {replace!r} does not fit the pattern: {error}") from None


FieldName = Annotated[str, AfterValidator(parse_field_name), Kind("header name")]
OwnField = Annotated[str, AfterValidator(parse_own_field), Kind("header name")]
IdentityField = Annotated[str, AfterValidator(parse_identity_field), Kind("header name")]
FieldValue = Annotated[str, AfterValidator(parse_field_value), Kind("text")]
FieldMap = Annotated[dict[OwnField, FieldValue], BeforeValidator(check_distinct)]
Algorithm = Annotated[
    Literal[
        "RS256",
        "RS384",
        "RS512",
        "PS256",
        "PS384",
        "PS512",
        "ES256",
        "ES384",
        "ES512",
        "EdDSA",
        "HS256",
        "HS384",
        "HS512",
    ],
    BeforeValidator(refuse_none),
]
CookieName = Annotated[str, AfterValidator(check_cookie), Kind("cookie name")]
Method = Annotated[str, AfterValidator(parse_method), Kind("method")]
Per = Annotated[str, AfterValidator(parse_per), Kind("key, principal, ip, model or header:NAME")]
ModelName = Annotated[str, Field(max_length=255), AfterValidator(check_model_name), Kind("name")]
VersionName = Annotated[str, Field(max_length=255), AfterValidator(check_version_name), Kind("name")]
Host = Annotated[str, AfterValidator(parse_host), Kind("host name")]
HostPattern = Annotated[str, AfterValidator(parse_host_pattern), Kind("host name")]
Alternative = Annotated[str, AfterValidator(check_alternative), Kind("glob")]
Target = Annotated[str, AfterValidator(check_target), Kind("path")]
Prefix = Annotated[str, AfterValidator(parse_prefix), Kind("path prefix")]
MatchPrefix = Annotated[str, AfterValidator(parse_match_prefix), Kind("path prefix")]
Pattern = Annotated[str, AfterValidator(check_pattern), Kind("regular expression")]
CertificateField = Literal["client-cert", "client-cert-chain", "x-client-cert", "x-forwarded-client-cert"]
