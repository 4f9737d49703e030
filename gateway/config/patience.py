"""How long, how often and how much at a time: checks, timeouts, retries, bounds and lines of a model in routes.yaml."""

from typing import Literal, Self

from pydantic import model_validator

from gateway.config.names import FieldMap, FieldName, Method, Target
from gateway.config.shape import Strict, setting
from gateway.config.values import Cause, Duration, Positive, Size, Status, Text


class HealthSettings(Strict):
    """Checks of each endpoint, one at a time, by one process of the machine. Without any, an endpoint counts as up.
    Nothing but GET is ever sent: no check costs a completion."""

    type: Literal["http", "tcp", "grpc"] = setting(
        "http", "`tcp`: that it accepts a connection, TLS included; `grpc`: grpc.health.v1."
    )
    path: Target = setting("/", "What is asked for, with GET.")
    port: int | None = setting(None, "Another port than the endpoint's own.", ge=1, le=65535)
    headers: FieldMap = setting({}, "Fields that are sent with it.")
    contains: str = setting("", "What the first 64 KiB of the answer's body must hold.")
    service: str = setting("", "The service that `grpc` asks about; the whole server if empty.", max_length=100)
    interval: Positive = setting("5s", "From one check to the next.")
    timeout: Positive = setting("2s", "How long an answer may take.")
    rise: int = setting(2, "Good checks in a row that bring an endpoint up.", ge=1)
    fall: int = setting(3, "Bad checks in a row that take it down.", ge=1)
    expect: list[Status] = setting([], "Statuses that count as good; any 2xx or 3xx if empty.")


class Timeouts(Strict):
    """How long the model server may take; beyond it 504, or a broken-off answer if it had begun. A client may give its
    request less than `total`: `x-request-timeout: 5`, `500ms`, `2m`, or gRPC's `grpc-timeout`."""

    connect: Positive = setting("5s", "To accept a connection, TLS included.")
    first_byte: Positive = setting("2m", "From the request's end to the first byte of the answer.")
    idle: Positive = setting("60s", "Longest silence inside the answer.")
    total: Positive = setting("30m", "From the request's beginning to the answer's end.")


class RetryBudget(Strict):
    """How many requests may be tried again, so that retries never turn a fault into an overload."""

    percent: float = setting(20, "Of the requests of the last ten seconds.", ge=0, le=100)
    min_per_second: float = setting(10, "And so many each second, over all workers: each has its part of them.", ge=0)


class Backoff(Strict):
    """The pause before another attempt: drawn between nothing and a longest one that doubles each time."""

    base: Duration = setting("25ms", "The longest pause before the second attempt.")
    max: Duration = setting("1s", "The longest of all; a Retry-After beyond it is not waited for.")


class RetrySettings(Strict):
    """Another attempt, while no byte of an answer went to the client. What was sent already is sent again only if its
    method is idempotent (RFC 9110, 9.2.2), it has an `Idempotency-Key`, or `methods` names its method."""

    attempts: int = setting(3, "Attempts in all, each on another endpoint; 1: no retries.", ge=1, le=10)
    when: list[Cause] = setting(
        ["unsent", "broken"],
        "What is tried again. `unsent`: no connection; `broken`: no answer, or none that is HTTP; `timeout`: no first "
        "byte in time; or an answer with this status.",
    )
    methods: list[Method] = setting([], "Methods that may be sent twice beside the idempotent ones, such as POST.")
    same_endpoint: bool = setting(False, "Ask the same endpoint again where there is no other.")
    buffer: Size = setting("64KiB", "How much of a body that streams in is held, so that it can be sent again.")
    budget: RetryBudget = setting({}, "How many requests may be tried again.")
    backoff: Backoff = setting({}, "The pause before another attempt.")


class HedgeSettings(Strict):
    """A second attempt at another endpoint, beside one whose first byte is late, for what may be sent twice (as by
    `retry`). The answer that begins first is taken, and the other attempt is cancelled."""

    percentile: float = setting(95, "So many of a hundred first bytes come before a second attempt.", ge=50, lt=100)
    percent: float = setting(5, "Second attempts for each hundred requests of the last ten seconds.", gt=0, le=100)


class AdaptiveSettings(Strict):
    """A bound for each endpoint that is found out: it falls while answers begin later than usual, and rises again."""

    min: int = setting(1, "The least, of each worker.", ge=1)
    max: int = setting(200, "The most, of each worker.", ge=1)
    start: int = setting(20, "Where it begins.", ge=1)

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.min > self.max:
            raise ValueError("`min` is more than `max`")
        return self


class MaxInFlight(Strict):
    """How many requests are at the model server at one time, over all workers; the others wait in the `queue`."""

    endpoint: int | None = setting(None, "At each endpoint, whichever models it serves.", ge=1)
    version: int | None = setting(None, "At all endpoints of a version.", ge=1)
    principal: int | None = setting(None, "Of one caller.", ge=1)
    adaptive: AdaptiveSettings | None = setting(None, "At each endpoint, as many as it can do; null: any number.")
    pending_tokens: int | None = setting(
        None,
        "Tokens of prompts without a first token at each endpoint, beyond which no other prompt is sent there (late "
        "binding); a prefill chunk, 2048, is a good one. For policies that read prompts.",
        ge=0,
    )

    @model_validator(mode="after")
    def _bounds_something(self) -> Self:
        bounds = (self.endpoint, self.version, self.principal, self.adaptive, self.pending_tokens)
        if all(bound is None for bound in bounds):
            raise ValueError("needs endpoint, version, principal, adaptive or pending_tokens")
        return self


class PrioritySettings(Strict):
    """Who is served first. Equals take turns by caller."""

    levels: list[Text] = setting(["high", "normal", "low"], "The levels, the most important first.", min_length=1)
    default: Text = setting("normal", "The level of who has none.")
    claim: Text | None = setting(None, "A claim of the caller's token, or metadata of its key, that names its level.")
    header: FieldName | None = setting(
        None, "A field that names a level; only `trusted_proxies` may raise a request above its caller's by it."
    )

    @model_validator(mode="after")
    def _default_is_a_level(self) -> Self:
        if self.default not in self.levels:
            raise ValueError(f"`default: {self.default}` is none of {', '.join(self.levels)}")
        return self


class QueueSettings(Strict):
    """Where requests wait that `max_in_flight` leaves no room for. 503 for who finds it full, unless somebody less
    important waits there, and for who waits in vain; 429 if it is the caller's own bound that it waits for."""

    length: int = setting(100, "How many wait for a version, over all workers; 0: none, it is refused at once.", ge=0)
    timeout: Positive = setting("10s", "How long one may wait; what has less time than it would wait is refused.")
    priority: PrioritySettings = setting({}, "Who is served first.")
    when_down: bool = setting(
        False, "While no endpoint is open, wait up to `timeout` for one (`length` in each worker), and not 503 at once."
    )
