"""How an endpoint is chosen and kept: the shape of `balance` and `sticky` in routes.yaml."""

from typing import Any, Literal, Self

from pydantic import ConfigDict, model_validator

from gateway.config.names import CookieName, FieldName, Target
from gateway.config.shape import Strict, setting
from gateway.config.values import Duration, Positive, Text, also_text
from gateway.core.pick import Within


class StickySettings(Strict):
    """A client's requests go to one endpoint, as long as that one is there."""

    cookie: CookieName = setting("gw_session", "The cookie that holds the choice, signed.")
    ttl: Positive = setting("1h", "How long a choice lasts; it may end by 1/64 of that earlier.")


class HashPart(Strict):
    """Exactly one of these. A request that lacks it is hashed by its client's address."""

    header: FieldName | None = setting(None, "A request header's value.")
    cookie: CookieName | None = setting(None, "A cookie's value.")
    query: Text | None = setting(None, "A query parameter's value.")
    claim: Text | None = setting(None, "A claim of the caller's token; `org.id` is `id` inside `org`.")
    body: Text | None = setting(None, "A member of a JSON body of at most `json_bytes`; `a.b` is `b` inside `a`.")
    principal: bool = setting(False, "Who is calling.")
    ip: bool = setting(False, "The client's address.")

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        parts = (self.header, self.cookie, self.query, self.claim, self.body, self.principal, self.ip)
        if sum(map(bool, parts)) != 1:
            raise ValueError("needs exactly one of header, cookie, query, claim, body, principal, ip")
        return self


class HashKey(HashPart):
    """Exactly one of these, beside `fallback`."""

    fallback: HashPart = setting({"ip": True}, "What is hashed of a request that lacks it.")


class EngineMetrics(Strict):
    """Where the engine of each endpoint tells its load (Prometheus text). A plain path is short for `{path: PATH}`."""

    model_config = ConfigDict(json_schema_extra=also_text)

    path: Target = setting("/metrics", "What is asked for, with GET, each second.")
    port: int | None = setting(None, "Another port than the endpoint's own, as Triton has it (8002).", ge=1, le=65535)

    @model_validator(mode="before")
    @classmethod
    def _accept_path(cls, data: Any) -> Any:
        return {"path": data} if isinstance(data, str) else data


class BalanceSettings(Strict):
    """How an endpoint of the version is chosen."""

    policy: Literal[
        "round_robin",
        "random",
        "least_connections",
        "weighted_least_connections",
        "two_choices",
        "ip_hash",
        "consistent_hash",
        "least_response_time",
        "peak_ewma",
        "prequal",
        "weighted",
        "first",
        "priority",
        "llm",
        "lpwl",
        "lmetric",
        "cache_aware",
        "prefix_hash",
        "sticky_until_saturated",
    ] = setting("least_connections", "The algorithm.")
    hash: HashKey = setting({"ip": True}, "What `consistent_hash` hashes.")
    method: Literal["rendezvous", "ring", "maglev"] = setting("rendezvous", "How `consistent_hash` hashes.")
    bounded_load: float | None = setting(
        None, "Most load of an endpoint under `consistent_hash`, in averages (1.25 is a good one); null: any.", ge=1
    )
    engine_metrics: EngineMetrics | None = setting(
        None, "Ask each endpoint's engine for its load, for the policies that read prompts; null: do not."
    )
    weights: Literal["configured", "learned"] = setting(
        "configured", "Of `weighted`: as the endpoints say, or that times the speed at which each is seen to answer."
    )
    within: Within = setting("least_connections", "The algorithm within a tier, for `priority`.")
    full: int = setting(
        32, "Requests in flight, times its weight, at which an endpoint is full, for `first` and `priority`.", ge=1
    )
    slow_start: Duration = setting(
        "30s", "How long an endpoint that comes up has less than its share of the load, from a tenth of it; 0s: none."
    )
    panic: float = setting(
        0.1,
        "Share of a pool's endpoints; if fewer are open, but any, all that do not drain are asked.",
        ge=0,
        lt=1,
    )
