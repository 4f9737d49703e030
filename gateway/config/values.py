"""Scalars of routes.yaml: durations, sizes, addresses, paths, rates. A parser raises ValueError with what is right.

Every type carries its `Kind`, the word for it in the reference, and the JSON Schema of its notation.
"""

import re
from dataclasses import dataclass
from functools import lru_cache, partial
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import limits
from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, WithJsonSchema

from gateway.core.endpoint import Address


@dataclass(frozen=True, slots=True)
class Kind:
    """What the reference calls a type."""

    name: str


class Plain(str):
    """An unquoted scalar of a YAML file: text where its key wants text, otherwise what it looks like (`resolve`)."""

    __slots__ = ()


_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST = 365 * 86400.0  # beyond it a typing error is likelier than a wish
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|KiB|MiB|GiB|kB|MB|GB)?", re.ASCII)
_BYTES = {"": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "kB": 10**3, "MB": 10**6, "GB": 10**9}
_LISTEN = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]*)):(\d{1,5})", re.ASCII)
_URL = re.compile(r"[\x21-\x7e]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

# YAML 1.1 as PyYAML reads it, without what surprises: no 12:30 as a number in base 60, no dates.
_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_NUMBERS = (
    (re.compile(r"[-+]?(?:0|[1-9][0-9_]*)", re.ASCII), lambda text: int(text.replace("_", ""))),
    (re.compile(r"0x[0-9a-fA-F_]+", re.ASCII), lambda text: int(text, 16)),
    (
        re.compile(r"[-+]?(?:\d[\d_]*\.[\d_]*|\.\d[\d_]*)(?:[eE][-+]\d+)?", re.ASCII),
        lambda t: float(t.replace("_", "")),
    ),
)


def resolve(value: Any) -> Any:
    """The value that unquoted YAML stands for where no key says its type: a plugin's options."""
    if isinstance(value, dict):
        return {key: resolve(item) for key, item in value.items()}
    if isinstance(value, list):
        return [resolve(item) for item in value]
    if not isinstance(value, Plain):
        return value
    if value.lower() in _BOOLEANS:
        return _BOOLEANS[value.lower()]
    for pattern, convert in _NUMBERS:
        if pattern.fullmatch(value):
            return convert(value)
    return str(value)


def parse_duration(value: Any, longest: float = _LONGEST) -> float:
    """`5s`, `100ms`, `1h30m`, or a bare number of seconds -> seconds, at most `longest` (a year)."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    seconds = float(value) if is_number else _seconds(str(value).strip())
    if seconds is None:
        raise ValueError(f"{value!r} is not a duration such as 500ms, 5s, 2m, 1h30m")
    if seconds > longest:
        raise ValueError(f"{value!r} is longer than {longest / 86400:.0f}d")
    return seconds


@lru_cache(maxsize=256)  # 500 models with the same defaults have 7,000 durations, and a dozen different ones
def _seconds(text: str) -> float | None:
    found = _DURATION.findall(text)
    if re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII):
        found, text = [(text, "s")], text + "s"
    if not found or "".join(number + unit for number, unit in found) != text:
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in found)


def parse_size(value: Any) -> int:
    """`64KiB`, `10MiB`, or a bare number of bytes -> bytes."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(str(value).strip())
    if match is None:
        raise ValueError(f"{value!r} is not a size such as 64KiB, 10MiB, 1GiB")
    return int(float(match[1]) * _BYTES[match[2] or ""])


def parse_network(value: Any) -> IPv4Network | IPv6Network:
    """An address or a CIDR -> network; bits beyond the mask are dropped."""
    try:
        return ip_network(str(value), strict=False)
    except ValueError:
        raise ValueError(f"{value!r} is not a network such as 10.0.0.0/8 or ::1/128") from None


def as_authority(host: str, port: int) -> str:
    """As in a URL: an IPv6 address stands in brackets (RFC 3986, 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_listen(value: Any) -> tuple[str, int]:
    """`host:port`, `[::1]:port` or `:port` (every address) -> (host, port). Port 0 is any free one."""
    if isinstance(value, (tuple, list)) and len(value) == 2:
        host, port = value
        value = as_authority(str(host), port)
    match = _LISTEN.fullmatch(str(value))
    if match is None or int(match[3]) > 65535:
        raise ValueError(f"{value!r} is not host:port")
    return match[1] or match[2] or "0.0.0.0", int(match[3])


def parse_workers(value: Any) -> int | Literal["auto"]:
    """`auto` or a number from 1."""
    if value == "auto":
        return "auto"
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= 1024):
        raise ValueError(f"{value!r} is neither auto nor a number from 1 to 1024")
    return int(text)


@lru_cache(maxsize=2**15)  # twice what one machine's zone has cells for
def address_of(url: str) -> Address:
    """`Address.parse`, remembered: an endpoint is checked and compared several times while a file is read."""
    return Address.parse(url)


@lru_cache(maxsize=2**15)
def check_endpoint(url: str) -> str:
    """Raises ValueError unless a model server can be reached at `url`."""
    if not _URL.fullmatch(url):
        raise ValueError(f"{url!r} has characters that a URL cannot hold (RFC 3986, 2)")
    if urlsplit(url).port == 0:
        raise ValueError(f"{url!r}: nothing listens on port 0")
    labels = address_of(url).host.removesuffix(".").split(".")
    if ":" not in labels[0] and not all(0 < len(label) <= 63 for label in labels):  # a resolver says so by UnicodeError
        raise ValueError(f"{url!r} has a host with an empty part, or one of more than 63 characters")
    return url


def check_web_url(url: str) -> str:
    parts = urlsplit(url)
    if not _URL.fullmatch(url) or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not an http(s) URL")
    return url


_STORES = ("shared", "memory", "redis", "rediss", "redis+cluster", "redis+sentinel")


def check_store(url: str) -> str:
    """Names only the scheme when it refuses: the rest may hold a password."""
    parts = urlsplit(url)
    if "://" not in url or parts.scheme not in _STORES:
        raise ValueError(f"scheme {url.partition(':')[0]!r} is none of {', '.join(f'{name}://' for name in _STORES)}")
    if parts.scheme.startswith("redis") and not parts.hostname:
        raise ValueError("needs a host, such as redis://localhost:6379/0")
    if not parts.scheme.endswith(("+cluster", "+sentinel")):  # they have several addresses
        _ = parts.port  # raises ValueError
    return url


def check_rate(text: str) -> str:
    """One rate in the notation of the `limits` package."""
    try:
        rates = limits.parse_many(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a rate such as 100/minute or 5 per 10 second") from None
    if len(rates) > 1:
        raise ValueError(f"{text!r} is several rates; write each as a limit of its own")
    if rates[0].amount < 1:
        raise ValueError(f"{text!r} allows nothing; a rate begins at 1")
    return text


def check_text(text: str) -> str:
    if not text or _CONTROL.search(text):
        raise ValueError(f"{text!r} is empty or has control characters")
    return text


def as_list(value: Any) -> Any:
    """`x` is short for `[x]`."""
    return [value] if isinstance(value, str) else value


def also_text(schema: dict[str, Any]) -> None:
    """For a section that plain text is short for: both are right in its JSON Schema."""
    whole = dict(schema)
    schema.clear()
    schema["anyOf"] = [{"type": "string"}, whole]


def anchor(value: Path, info: ValidationInfo) -> Path:
    """Relative paths start at the folder of the file that names them, wherever the process was started."""
    if "\0" in str(value):  # YAML can write it; no system call takes it
        raise ValueError(f"{str(value)!r} is not a path")
    base = (info.context or {}).get("base")
    return base / value if base else value


def anchor_log(value: str, info: ValidationInfo) -> str:
    return value if value in ("", "-") else str(anchor(Path(value), info))


_DURATION_SCHEMA = {
    "anyOf": [{"type": "string", "pattern": r"^(\d+(\.\d+)?(ms|s|m|h|d))+$"}, {"type": "number", "minimum": 0}],
    "examples": ["500ms", "5s", "1h30m"],
}
_SIZE_SCHEMA = {
    "anyOf": [
        {"type": "string", "pattern": r"^\d+(\.\d+)?\s*(B|KiB|MiB|GiB|kB|MB|GB)?$"},
        {"type": "integer", "minimum": 0},
    ],
    "examples": ["64KiB", "10MiB"],
}
_LISTEN_SCHEMA = {"type": "string", "pattern": r"^.*:\d{1,5}$", "examples": ["0.0.0.0:8443", "[::1]:9901"]}
_AUDIENCE_SCHEMA = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
_WORKERS_SCHEMA = {"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": 1024}]}

Duration = Annotated[
    float, BeforeValidator(parse_duration), Field(ge=0), WithJsonSchema(_DURATION_SCHEMA), Kind("duration")
]
Years = Annotated[  # a duration of up to ten of them
    float,
    BeforeValidator(partial(parse_duration, longest=10 * _LONGEST)),
    Field(ge=0),
    WithJsonSchema(_DURATION_SCHEMA),
    Kind("duration"),
]
Positive = Annotated[Duration, Field(gt=0)]  # a duration that cannot be nothing
Size = Annotated[int, BeforeValidator(parse_size), Field(ge=0), WithJsonSchema(_SIZE_SCHEMA), Kind("size")]
PositiveSize = Annotated[Size, Field(gt=0)]
Network = Annotated[
    IPv4Network | IPv6Network, BeforeValidator(parse_network), WithJsonSchema({"type": "string"}), Kind("CIDR")
]
Listen = Annotated[tuple[str, int], BeforeValidator(parse_listen), WithJsonSchema(_LISTEN_SCHEMA), Kind("host:port")]
Workers = Annotated[
    Literal["auto"] | int, BeforeValidator(parse_workers), WithJsonSchema(_WORKERS_SCHEMA), Kind("auto or number")
]
EndpointURL = Annotated[str, AfterValidator(check_endpoint), Kind("URL")]
WebURL = Annotated[str, AfterValidator(check_web_url), Kind("URL")]
StoreURL = Annotated[str, AfterValidator(check_store), Kind("URL")]
Rate = Annotated[str, AfterValidator(check_rate), Kind("rate")]
Text = Annotated[str, AfterValidator(check_text), Kind("text")]
Audience = Annotated[
    list[Text], BeforeValidator(as_list), WithJsonSchema(_AUDIENCE_SCHEMA), Kind("text or list of text")
]
Cause = Annotated[
    Literal["unsent", "broken", "timeout", "429", "500", "502", "503", "504"],
    BeforeValidator(str),
    WithJsonSchema({"enum": ["unsent", "broken", "timeout", 429, 500, 502, 503, 504]}),
]
Status = Annotated[int, Field(ge=100, le=599), Kind("status")]
FilePath = Annotated[Path, AfterValidator(anchor), Kind("path")]
LogPath = Annotated[str, AfterValidator(anchor_log), Kind("path")]
