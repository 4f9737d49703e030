"""The nouns. Frozen, but for `Exchange`: what one request carries through the layers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from gateway.core.dispatch import Target
    from gateway.core.endpoint import Endpoint
    from gateway.core.inference import Inference
    from gateway.core.pool import Pool
    from gateway.core.snapshot import Route
    from gateway.errors import GatewayError

Header = tuple[bytes, bytes]
Edit = Callable[[list[Header]], list[Header]]


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling.

    `id` is unique over all kinds and safe to log (a key's id, `issuer|subject` of a JWT, `mtls|ca|name` of a
    client certificate); `grants` are globs of
    `model` or `model@version`, None for everything.
    """

    id: str
    name: str
    kind: str  # key | jwt | basic | mtls | anonymous
    grants: tuple[str, ...] | None = None
    claims: Mapping[str, Any] = field(default_factory=dict)
    headers: tuple[Header, ...] = ()  # identity to send upstream
    limits: tuple[Any, ...] = ()  # a key's own, over all models: `stores.keys.OwnLimit`
    methods: tuple[str, ...] = ()  # by which it may call; empty: all

    def may_call(self, model: str, version: str | None = None) -> bool:
        """True if a grant covers the model (version None: any version of it)."""
        if self.grants is None:
            return True
        for grant in self.grants:
            name, _, arm = grant.partition("@")
            if fnmatchcase(model, name) and (not arm or version is None or fnmatchcase(version, arm)):
                return True
        return False


ANONYMOUS: Final = Principal(id="anonymous", name="anonymous", kind="anonymous")


class Extras:
    """What few exchanges go through; counted and logged where it happened."""

    __slots__ = ("fallback_from", "hedges", "hedges_won", "may_fall_back", "queued", "retries_denied")

    def __init__(self) -> None:
        self.fallback_from = ""  # the model@version that was asked for and could not answer
        self.hedges = 0  # attempts beside another one
        self.hedges_won = 0  # of them, those that answered
        self.may_fall_back = False  # another model may answer instead of this one
        self.queued = 0.0  # seconds in a line before an endpoint had room
        self.retries_denied = 0  # attempts that the route's retry budget did not pay for


class Answer(NamedTuple):
    """A whole answer of a service that was asked."""

    status: int
    headers: list[Header]
    body: bytes


class Exchange:
    """One request and its answer, from the first byte of the head to the last byte of the body.

    Made by `edge/observe.py` (by the server's protocol when it is ours), filled by the layers, read by the log.
    Times are seconds of the event loop's clock.
    """

    __slots__ = (
        "allowed_versions", "answer_edits", "answer_headers", "answered", "attempts", "body", "bytes_in", "bytes_out",
        "client_ip", "departed", "endpoint", "error", "extras", "fields", "first_byte", "inference", "is_trusted",
        "limit_verdict", "named", "on_leave", "path", "pool", "preferred", "principal", "request_id", "route",
        "started", "status", "target", "version", "wire_counts",
    )  # fmt: skip

    def __init__(self, request_id: str, started: float, client_ip: str) -> None:
        self.request_id = request_id
        self.started = started
        self.client_ip = client_ip  # the rightmost untrusted address
        self.is_trusted = False  # the peer is one of trusted_proxies: what it forwards is believed
        self.route: Route | None = None
        self.fields: dict[bytes, bytes] = {}  # the head as it came, by name; for fields that may occur once only
        self.target: Target | None = None  # how the path names the model
        self.named = ""  # how the body names it
        self.version: str | None = None  # as the client named it; None: split or default decides
        self.allowed_versions: tuple[str, ...] | None = None  # what the principal may call; None: all
        self.pool: Pool | None = None
        self.preferred: Endpoint | None = None  # where a session wants to stay
        self.endpoint: Endpoint | None = None
        self.principal: Principal = ANONYMOUS
        self.path = b""  # raw path the upstream will see; the query stays in the scope
        self.body: bytes | None = None  # the whole body, where a layer had to read it
        self.inference: Inference | None = None  # where the route's policy reads prompts
        self.answered = False  # the head of an upstream's answer was passed on: nothing else can be tried
        self.answer_headers: list[Header] = []  # what layers add to whatever answer is given
        self.answer_edits: list[Edit] = []  # what layers do to the fields of the upstream's answer, outermost first
        self.limit_verdict = ""  # admitted | limited; "" where nothing limits
        self.attempts = 0
        self.status = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.first_byte = 0.0
        self.error: GatewayError | None = None
        self.wire_counts = False  # True: the server's protocol sets status, bytes and first_byte itself
        self.extras: Extras | None = None
        self.departed = False
        self.on_leave: Callable[[], None] | None = None

    def note(self) -> Extras:
        """Where to write down what few exchanges go through."""
        if self.extras is None:
            self.extras = Extras()
        return self.extras

    def leave(self) -> None:
        """The client is gone: cancel what runs for it. Called by the server's protocol, at once."""
        self.departed = True
        if self.on_leave is not None:
            callback, self.on_leave = self.on_leave, None
            callback()

    def __repr__(self) -> str:
        target = f"{self.route.name if self.route else '-'}@{self.pool.version if self.pool else self.version or '-'}"
        return f"<Exchange {self.request_id} {target} {self.principal.id} via {self.endpoint!r} status={self.status}>"
