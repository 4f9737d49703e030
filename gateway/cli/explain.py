"""`gateway explain`: which route, policies, version and endpoint a request would get, and why. Nothing is sent."""

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from gateway.app import directory_of, split_of
from gateway.cli.output import fail
from gateway.config.load import load
from gateway.config.problems import ConfigError
from gateway.config.settings import AllowSettings, LimitSettings, ModelSettings, Settings, VersionSettings
from gateway.core.dispatch import Target, as_served, header_text
from gateway.core.endpoint import Endpoint, Health, Row
from gateway.core.headers import get
from gateway.core.pick import make as make_policy
from gateway.core.pool import Pool
from gateway.edge.hashkey import key_of
from gateway.edge.match import BODY_METHODS, host_name, model_in
from gateway.edge.rewrite import PathRules
from gateway.edge.transform import rename
from gateway.errors import GatewayError
from gateway.model import Exchange, Header
from gateway.server.target import prepare

_HEADER = "-H"


def explain(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="GET, POST …")],
    path: Annotated[str, typer.Argument(metavar="PATH", help="A path, or a whole URL.")],
    header: Annotated[list[str] | None, typer.Option(_HEADER, "--header", help='As curl: "x-model: iris".')] = None,
    data: Annotated[str, typer.Option("-d", "--data", help="The body.")] = "",
    config: Annotated[Path, typer.Option("--config", "-c", help="The configuration.")] = Path("routes.yaml"),
) -> None:
    """Say which route, policies, version and endpoint a request would get, and why. Sends nothing."""
    try:
        settings = load(config)
    except ConfigError as error:
        fail(str(error))
    try:
        scope = _scope(method.upper(), path, header or [])
        for line in _explain(settings, scope, data.encode()):
            typer.echo(line)
    except GatewayError as error:
        typer.echo(f"answer     {error.status} {error.code}: {error}")
        raise typer.Exit(1) from error


def _scope(method: str, path: str, headers: list[str]) -> dict[str, Any]:
    fields: list[Header] = []
    for line in headers:
        name, separator, value = line.partition(":")
        if not separator:
            fail(f"{line!r} is not a header such as 'x-model: iris'", 2)
        fields.append((name.strip().lower().encode(), value.strip().encode()))
    try:
        url = urlsplit(path)
    except ValueError as error:
        fail(f"{path!r} is no target of a request: {error}", 2)
    if url.netloc:
        path = path.split(url.netloc, 1)[1] or "/"
    if get(fields, b"host") is None:
        fields.append((b"host", (url.netloc or "localhost").encode()))
    scope: dict[str, Any] = {
        "type": "http",
        "method": method,
        "http_version": "1.1",
        "scheme": "https",
        "raw_path": path.encode(),
        "path": "",
        "query_string": b"",
        "headers": fields,
        "client": ("127.0.0.1", 0),
    }
    prepare(scope, dict(fields))
    return scope


def _explain(settings: Settings, scope: dict[str, Any], body: bytes) -> Iterator[str]:
    """Lines of `what  is so  (because)`. Raises GatewayError as the request itself would be answered."""
    target, why = _target(settings, scope, body)
    if target is None or not target.model:
        yield f"route      none: {scope['method']} {scope['path']} names no model; the gateway's own routes answer"
        return
    model = settings.models[target.model]
    yield f"route      {target.model}  ({why})"
    yield from _policies(model)
    version = target.version
    if version is not None and version not in model.versions:
        yield f"version    {version}  (named by the client): it has only {', '.join(model.versions)}"
        return
    because = "named by the client"
    if version is None:
        split = split_of(model)
        version = split.choose(Random())
        because = f"drawn by weight from {split.weights}" if split.weights else "the default version"
    if version is None:
        yield "version    none can be chosen"
        return
    yield f"version    {version}  ({because})"
    yield from _upstream(target, version, model, scope, body)


def _target(settings: Settings, scope: dict[str, Any], body: bytes) -> tuple[Target | None, str]:
    headers: list[Header] = scope["headers"]
    named = {name: header_text(value) for name, value in headers if name in (b"x-model", b"x-model-version")}
    host = host_name(get(headers, b"host") or b"")
    directory = directory_of(settings)
    target = directory.target(host, scope["raw_path"], named.get(b"x-model"), named.get(b"x-model-version"))
    why = "x-model" if b"x-model" in named else "its own host or prefix" if target and not target.named else "the path"
    if target is not None and target.is_in_body and not target.model and scope["method"] in BODY_METHODS:
        name = model_in(body, is_required=True)
        if name:
            model, version = directory.named(name)
            why = f"`model` of the body: {name}"
            target = target._replace(model=model, version=target.version or version, named=name)
    return target, why


def _policies(model: ModelSettings) -> Iterator[str]:
    services = [f"as {model.external.external} decides"] if model.external is not None else []
    yield f"auth       {' or '.join([*model.methods_of_auth, *services]) or 'public'}"
    for each in model.allow:
        yield f"allow      {_whom(each)}" + (f", {' '.join(each.methods)}" if each.methods else "")
    if model.hide:
        yield "hide       who may not call it is answered as for a model that does not exist"
    for limit in model.limits:
        yield f"limit      {_most(limit)} per {limit.per}" + (f", burst {limit.burst}" if limit.burst else "")
    for entry in model.plugins:
        yield f"plugin     {entry.use}"
    if model.hedge is not None:
        yield f"hedge      beyond the first byte of {model.hedge.percentile:g} %, for {model.hedge.percent:g} %"
    if model.fallback:
        yield f"fallback   {', '.join(model.fallback)}"
    if model.max_in_flight is not None:
        given = model.max_in_flight.model_dump(exclude_none=True)
        most = ", ".join("adaptive" if name == "adaptive" else f"{count} per {name}" for name, count in given.items())
        yield f"in flight  {most}; {model.queue.length} may wait for {model.queue.timeout:g} s"
    retry = model.retry
    if retry.attempts > 1 and retry.when:
        yield f"retry      up to {retry.attempts} attempts on {', '.join(retry.when)}"
    if model.sticky is not None:
        yield f"sticky     cookie {model.sticky.cookie}: a valid one decides version and endpoint"


def _most(limit: LimitSettings) -> str:
    if limit.rate is None:
        return f"{limit.in_flight} in flight"
    return limit.rate if limit.unit == "requests" else f"{limit.rate} of {limit.unit}"


def _whom(rule: AllowSettings) -> str:
    if rule.user is not None:
        return f"user {rule.user}"
    if rule.scope is not None:
        return f"scope {rule.scope}"
    return f"{rule.claim} contains {rule.contains}"


def _upstream(target: Target, version: str, model: ModelSettings, scope: dict[str, Any], body: bytes) -> Iterator[str]:
    arm = model.versions[version]
    served = arm.served_as.model or target.model
    path = as_served(target, served, arm.served_as.version)
    path = PathRules(model.path).apply(path)
    yield f"path       {path.decode('latin-1')}  (as the upstream sees it)"
    if target.is_in_body and target.named and target.named != served:
        yield f"body       {rename(body, served).decode('utf-8', 'replace')[:200]}  (renamed)"
    yield from _endpoint(arm, model, scope, body)


def _endpoint(arm: VersionSettings, model: ModelSettings, scope: dict[str, Any], body: bytes) -> Iterator[str]:
    """As if all were up and idle; `gateway status` knows how they are."""
    balance = arm.balance or model.balance
    cells = [Health.DRAINING if endpoint.drain else Health.UP for endpoint in arm.endpoints]
    row = Row(cells, [0] * len(cells))
    endpoints = [Endpoint(e.url, slot, row, e.weight) for slot, e in enumerate(arm.endpoints)]
    for endpoint, each in zip(endpoints, arm.endpoints, strict=True):
        endpoint.tier = each.tier
    pool = Pool("", "", endpoints, make_policy(balance, endpoints), ("", None))
    candidates = pool.candidates()
    if not candidates:
        yield "endpoint   none: all are draining"
        return
    read = key_of(balance)
    exchange = Exchange("", 0.0, scope["client"][0])
    exchange.body = body
    key = read(scope, exchange) if read is not None else None  # None too where it is the prompt: nothing is known of it
    chosen = pool.policy.pick(candidates, key or b"", 0.0, Random())
    because = f"{balance.policy} of {len(candidates)}" + (f", hashing {key.decode('latin-1')!r}" if key else "")
    yield f"endpoint   {chosen.url}  ({because}, if all are up and idle)"
