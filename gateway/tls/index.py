"""Which certificates answer which host name. Pure: a new index is built beside the old one, then takes its place."""

from collections.abc import Iterable

from gateway.tls.pair import Pair

Group = tuple[Pair, ...]  # at most one pair of each kind, offered together: the client's abilities choose


class Index:
    """The pairs by host name.

    Of two pairs of one kind for a host, one that is valid now is preferred, then the one issued last, then the first by
    name. The default is the pair called `default` (the argument), else `default.crt`, else the first by name that names
    an IP address, for it is who connects to an address that asks for no host, else the first by name; with it go the
    pairs of other kinds that name the same hosts.
    """

    def __init__(self, pairs: Iterable[Pair] = (), *, default: str = "", now: float = 0.0) -> None:
        by_name = sorted(pairs, key=lambda pair: pair.name, reverse=True)
        # Worst first, so that the best is written last.
        ranked = sorted(by_name, key=lambda pair: (pair.is_valid_at(now), pair.not_before))
        self.pairs = {pair.name: pair for pair in reversed(by_name)}
        by_host: dict[str, dict[str, Pair]] = {}
        for pair in ranked:
            for host in pair.hosts:
                by_host.setdefault(host, {})[pair.kind] = pair
        self._groups: dict[str, Group] = {host: tuple(kinds.values()) for host, kinds in by_host.items()}
        self.default = self._default_group(default, ranked)

    def _default_group(self, name: str, ranked: list[Pair]) -> Group:
        with_address = (pair.name for pair in self.pairs.values() if pair.addresses)
        for candidate in (name, "default", next(with_address, ""), next(iter(self.pairs), "")):
            if pair := self.pairs.get(candidate):
                hosts = set(pair.hosts)
                by_kind = {other.kind: other for other in ranked if set(other.hosts) == hosts}
                return tuple({**by_kind, pair.kind: pair}.values())
        return ()

    def find(self, host: str) -> Group | None:
        """The pairs for a host (exact name, then a wildcard for its first label: RFC 9525, 6.3); None if unknown."""
        host = host.lower().rstrip(".")
        return self._groups.get(host) or self._groups.get("*." + host.partition(".")[2])

    def groups(self) -> set[Group]:
        return {self.default, *self._groups.values()}

    def __len__(self) -> int:
        return len(self.pairs)

    def __repr__(self) -> str:
        return f"<Index {len(self.pairs)} pairs, {len(self._groups)} hosts, default {self.default!r}>"
