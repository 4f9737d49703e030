"""Where a worker's token buckets are, by `gateway.limits_store`."""

from typing import Any

from gateway.server.zone import Zone
from gateway.stores.memory import MemoryBuckets
from gateway.stores.shared import SharedBuckets


def store_of(url: str, zone: Zone) -> Any:
    """`shared://`: the zone's, exact over all workers; `memory://`: each worker its own."""
    if url.startswith("memory:"):
        return MemoryBuckets()
    return SharedBuckets(zone.buckets, zone.fd, zone.buckets_at)
