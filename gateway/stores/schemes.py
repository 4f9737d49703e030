"""Where token buckets live, by the scheme of `gateway.limits_store`.

A table of our own instead of the `limits` package's registry: it has other classes under the same names, and they stay
there. The classes of a server are found by name when they are asked for, since their client is an optional package.
"""

import pkgutil
from typing import Final

from limits.errors import ConfigurationError

from gateway.stores.buckets import AsyncTokenBucketSupport, TokenBucketSupport
from gateway.stores.memory import MemoryBuckets

_SERVERS: Final = {
    "redis": "gateway.stores.redis:RedisBuckets",
    "rediss": "gateway.stores.redis:RedisBuckets",
    "redis+cluster": "gateway.stores.redis:RedisClusterBuckets",
    "redis+sentinel": "gateway.stores.redis:RedisSentinelBuckets",
}


def open_buckets(uri: str, shared: TokenBucketSupport) -> TokenBucketSupport | AsyncTokenBucketSupport:
    """The store that `uri` names. `shared` is `shared://`, and what a server's store falls back to.

    Raises limits' ConfigurationError for an unknown scheme, a bad URI or a package that is not installed.
    """
    scheme = uri.partition("://")[0]
    if scheme == "shared":
        return shared
    if scheme == "memory":
        return MemoryBuckets()
    if scheme not in _SERVERS:
        known = ", ".join(f"{each}://" for each in ("shared", "memory", *_SERVERS))
        raise ConfigurationError(f"limits_store: scheme {scheme!r} is none of {known}")
    try:
        kind = pkgutil.resolve_name(_SERVERS[scheme])
    except ImportError as error:
        raise ConfigurationError(f"{scheme}:// needs the package redis: install model-gateway[redis]") from error
    store: AsyncTokenBucketSupport = kind(uri, shared)
    return store
