"""The table: what is compared with what, under which bar.

The gateway runs with everything on, one worker; bars are ratios of its first measure to a peer's,
ceilings the most that it may cost itself.
"""

from bench import runs
from bench.contestants import TABLE, Contestant
from bench.load.wrk import Load
from bench.row import Row

_GATEWAY, _HAPROXY, _NGINX = TABLE["gateway"], TABLE["haproxy"], TABLE["nginx"]
_STREAMING = _NGINX.with_words(buffering="off")
_JWT = {"auth": "jwt", "authentication_file": "haproxy-jwt.cfg"}
_MANY = {"model_count": 500, "endpoint_count": 20, "key_count": 10_000}


def _scaled(name: str, **words: object) -> Contestant:
    return _GATEWAY.with_words(name, **words)


ROWS = {
    row.name: row
    for row in (
        Row(
            "small",
            "small JSON POST over TLS, 32 kept-alive clients",
            ("CPU µs/request",),
            [TABLE[name] for name in ("gateway", "haproxy", "nginx", "envoy", "envoy, all policies", "vllm-router",
                                      "sglang-router", "litellm")],
            runs.PerRequest(Load()),
            bars={"haproxy": 1.5, "envoy": 1.0, "vllm-router": 1.0, "sglang-router": 1.0},
        ),
        Row(
            "jwt",
            "the same with RS256 JWTs, one for each client",
            ("CPU µs/request",),
            [_GATEWAY.with_words(**_JWT), _HAPROXY.with_words(**_JWT)],
            runs.PerRequest(Load(credentials="tokens")),
            bars={"haproxy": 1.0},
        ),
        Row(
            "workers",
            "the first row's work on two workers against one: what sharing limits, counts and health costs",
            ("CPU µs/request",),
            [_scaled("gateway, 2 workers", workers=2), _scaled("gateway, 1 worker")],
            runs.PerRequest(Load()),
            bars={"gateway, 1 worker": 1.05},
        ),
        Row(
            "streams",
            "200 SSE streams of 50 events/s over TLS",
            ("CPU µs/event",),
            [_GATEWAY, _STREAMING],
            runs.PerEvent(streams=200, rate=50),
            bars={"nginx": 1.4},
            upstream=runs.start_reading_upstream,
            warm_up=0,
        ),
        Row(
            "idle",
            "1,000 idle SSE streams over TLS",
            ("CPU ms/s", "PSS KiB/stream", "RSS KiB/stream"),
            [_GATEWAY, _STREAMING],
            runs.PerIdleStream(streams=1000),
            bars={"nginx": 1.3},
            ceilings={"PSS KiB/stream": 64},
            upstream=runs.start_reading_upstream,
            is_fresh=True,
        ),
        Row(
            "upload",
            "requests of 64 KiB over TLS",
            ("CPU µs/MiB",),
            [_GATEWAY, _NGINX],
            runs.PerMiB(Load(body=64 * 1024)),
            bars={"nginx": 2.0},
            upstream=runs.start_reading_upstream,
        ),
        Row(
            "download",
            "answers of 1 MiB over TLS",
            ("CPU µs/MiB",),
            [_GATEWAY, _NGINX],
            runs.PerMiB(Load(method="GET", clients=8, paths=["/models/demo/large"])),
            bars={"nginx": 2.0},
        ),
        Row(
            "handshake",
            "a new TLS 1.3 connection for every request, ECDSA P-256",
            ("CPU µs/request",),
            [_GATEWAY, _HAPROXY],
            runs.PerRequest(Load(is_kept=False)),
            bars={"haproxy": 1.6},
        ),
        Row(
            "resumption",
            "a new TLS 1.3 connection for every request, which resumes the session of the one before by its ticket",
            ("CPU µs/request",),
            [_GATEWAY.with_words(session_tickets="true"), _HAPROXY.with_words(tickets="")],
            runs.PerResumption(clients=8),
            bars={"haproxy": 1.5},
        ),
        Row(
            "latency",
            "latency that is added at half of the gateway's saturation rate",
            ("added p50 µs", "added p99 µs"),
            [_GATEWAY, _HAPROXY, _NGINX],
            runs.AddedLatency(),
            ceilings={"added p50 µs": 300, "added p99 µs": 1500},
            notes=("direct p50 µs", "direct p99 µs", "requests/s"),
        ),
        Row(
            "scale",
            "500 models of 20 endpoints and 10,000 keys, all in use, against 1 model of 20 and 1 key",
            ("CPU µs/request", "start s", "reload s", "reload CPU s", "PSS MiB"),
            [_scaled("gateway, 500 models", **_MANY), _scaled("gateway, 1 model", endpoint_count=20, key_count=1)],
            runs.AtScale(),
            bars={"gateway, 1 model": 1.05},
            ceilings={"start s": 3, "reload s": 1},
            is_fresh=True,
        ),
    )
}  # fmt: skip
