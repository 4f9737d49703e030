"""Scalars of routes.yaml: durations, sizes, addresses. Each parser raises ValueError with what would be right."""

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)(ms|s|m|h|d))", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|KiB|MiB|GiB|kB|MB|GB)?", re.ASCII)
_BYTES = {None: 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "kB": 10**3, "MB": 10**6, "GB": 10**9}


def parse_duration(value: Any) -> float:
    """`5s`, `100ms`, `1h30m`, or a bare number of seconds -> seconds."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    text = str(value).strip()
    found = _DURATION.findall(text)
    if not found or "".join(n + u for n, u in found) != text:
        raise ValueError(f"{value!r} is not a duration such as 500ms, 5s, 2m, 1h30m")
    return sum(float(number) * _SECONDS[unit] for number, unit in found)


def parse_size(value: Any) -> int:
    """`64KiB`, `10MiB`, or a bare number of bytes -> bytes."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(str(value).strip())
    if match is None:
        raise ValueError(f"{value!r} is not a size such as 64KiB, 10MiB, 1GiB")
    return int(float(match[1]) * _BYTES[match[2]])


def parse_network(value: Any) -> IPv4Network | IPv6Network:
    return ip_network(str(value), strict=False)


def parse_listen(value: Any) -> tuple[str, int]:
    """`host:port`, `[::1]:port` or `:port` -> (host, port)."""
    if isinstance(value, (tuple, list)) and len(value) == 2:
        return str(value[0]), int(value[1])
    host, separator, port = str(value).rpartition(":")
    if not separator or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{value!r} is not host:port")
    return host.strip("[]") or "0.0.0.0", int(port)


_DURATION_SCHEMA = {"type": ["string", "number"], "examples": ["500ms", "5s", "1h"]}
_SIZE_SCHEMA = {"type": ["string", "integer"], "examples": ["64KiB", "10MiB"]}

Duration = Annotated[float, BeforeValidator(parse_duration), Field(ge=0), WithJsonSchema(_DURATION_SCHEMA)]
Size = Annotated[int, BeforeValidator(parse_size), Field(ge=0), WithJsonSchema(_SIZE_SCHEMA)]
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(parse_network), WithJsonSchema({"type": "string"})]
Listen = Annotated[tuple[str, int], BeforeValidator(parse_listen), WithJsonSchema({"type": "string"})]
