"""The endpoints of one model version, and what a request asks of them: whom to be sent to, and what became of it."""

from collections.abc import Callable, Collection, Sequence
from random import Random
from typing import Any, Final

from gateway.core.ejection import Ejected, Ejector, Rules
from gateway.core.endpoint import Endpoint
from gateway.core.openlist import OpenList
from gateway.core.outcome import Watcher
from gateway.core.policy import Policy
from gateway.core.standing import Stand
from gateway.errors import GatewayError, StaleConnection, UpstreamInvalid, UpstreamTruncated, UpstreamUnwilling

_UNPROVEN: Final = Stand.UNPROVEN
_BUSY: Final = frozenset((429, 503))
_TRUE_WORDS: Final = frozenset((501, 505))  # about the request, not about whoever answers
_NOBODY: Final = frozenset((502, 503, 504))  # what stands before an endpoint says that it is not there
# A connection that was closed just as it was used again; an answer that was judged when it came.
_BLAMELESS: Final = (StaleConnection, UpstreamUnwilling)


class Pool:
    """The endpoints of one model version."""

    __slots__ = (
        "_ejector", "_open", "endpoints", "model", "on_eject", "policy", "rules", "served_model", "served_version",
        "version", "watchers",
    )  # fmt: skip

    def __init__(
        self,
        model: str,
        version: str,
        endpoints: Sequence[Endpoint],
        policy: Policy,
        served: tuple[str, str | None],
        *,
        watchers: tuple[Watcher, ...] = (),
        rules: Rules | None = None,
        on_eject: Callable[[Ejected], None] | None = None,
    ) -> None:
        """`served`: what the upstream calls the model and the version (None: as the client says). `watchers` are told
        of every attempt (`core/outcome.py`). `rules`: what traffic may do to who is asked (None: nothing); `on_eject`
        is told of whom they leave out."""
        self.model = model
        self.version = version
        self.endpoints = endpoints
        self.policy = policy
        self.served_model, self.served_version = served
        self.watchers = watchers
        self.rules = rules
        self.on_eject = on_eject
        self._ejector = Ejector(endpoints, rules) if rules is not None else None
        self._open = OpenList(endpoints, self._ejector, on_eject)

    def candidates(self, tried: Collection[Endpoint] = (), now: float = 0.0) -> Sequence[Endpoint]:
        """Endpoints that may take new work: those that are up; failing that, those not yet checked. `tried` are out.
        `now` 0.0: as of the last time that somebody asked."""
        return self._open.candidates(tried, now)

    def pick(self, key: Any, now: float, rng: Random, tried: Collection[Endpoint] = ()) -> Endpoint | None:
        """The policy's choice for a request that will be sent there now; None: none is open."""
        candidates = self._open.candidates(tried, now)
        if not candidates:
            return None
        endpoint = self.policy.pick(candidates, key, now, rng)
        if endpoint.standing.state is _UNPROVEN:  # for every request: a property would cost 60 ns
            self._prove(endpoint, now)
        return endpoint

    def keep(self, endpoint: Endpoint, now: float) -> bool:
        """May the next request of a session that is at `endpoint` be sent there now?"""
        if not endpoint.may_keep:
            return False
        self._open.candidates((), now)  # what is known of it is as new as that
        standing = endpoint.standing
        if standing.is_unproven:
            self._prove(endpoint, now)
        return not standing.is_out or standing.is_spared or standing.is_trying

    def _prove(self, endpoint: Endpoint, now: float) -> None:
        """A request is sent to one that is not trusted again yet: until it has ended, it is the only one."""
        rules = self.rules
        if rules is not None and (endpoint.standing.is_out or (rules.is_shy and not rules.is_keyed)):
            endpoint.standing.begin_trial(now)

    @property
    def reopens(self) -> float:
        """When endpoints that traffic left out may be asked again; inf: that is not why none is open."""
        return self._open.reopens

    # --- what became of it ---

    def judge(self, endpoint: Endpoint, status: int, asked: float, now: float) -> bool:
        """An answer of 429 or above came, which asks for `asked` seconds of peace; -> whether it speaks well of the
        endpoint, as all others do."""
        if status in _BUSY and asked > 0.0:
            if self.rules is not None:
                endpoint.standing.busy(asked, now)
            return False
        if status >= 500 and status not in _TRUE_WORDS:
            self._blame(endpoint, now, is_gone=status in _NOBODY)
            return False
        if status == 429 and endpoint.standing.is_trying:
            endpoint.standing.abandon()
        return status != 429

    def fail(self, endpoint: Endpoint, error: GatewayError, now: float) -> None:
        """There was no answer, or it broke off."""
        if isinstance(error, _BLAMELESS) or error.owner != "upstream":
            if endpoint.standing.is_trying:
                endpoint.standing.abandon()
        else:
            self._blame(endpoint, now, is_gone=not isinstance(error, UpstreamTruncated | UpstreamInvalid))

    def _blame(self, endpoint: Endpoint, now: float, *, is_gone: bool) -> None:
        if self._ejector is not None:
            for ejected in self._ejector.fail(endpoint, now, is_gone=is_gone):
                if self.on_eject is not None:
                    self.on_eject(ejected)

    def __repr__(self) -> str:
        return f"<Pool {self.model}@{self.version} {self._open!r} {self.policy!r}>"
