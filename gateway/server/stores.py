"""Where a worker's token buckets are, by `gateway.limits_store`, and its leases."""

from typing import Any

from gateway.server.zone import Zone
from gateway.stores.leases import SharedLeases
from gateway.stores.schemes import open_buckets
from gateway.stores.shared import SharedBuckets


def store_of(url: str, zone: Zone) -> Any:
    """`shared://`: the zone's, exact over all workers; `memory://`: each worker its own; or a server's. Raises limits'
    ConfigurationError."""
    return open_buckets(url, SharedBuckets(zone.buckets, zone.fd, zone.buckets_at))


def leases_of(zone: Zone, worker: int) -> SharedLeases:
    """The requests in flight, as the worker in this slot counts them; what its predecessor held is free."""
    return SharedLeases(zone.leases, zone.fd, zone.leases_at, worker)
