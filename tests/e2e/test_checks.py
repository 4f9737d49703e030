"""Checks of each kind, against servers that speak it: TCP, gRPC's health service, and HTTP's body, port and fields."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tests.e2e.harness import Gateway, material, served, until
from tests.e2e.harness_upstream import Connection, RawUpstream, response

OFTEN = {"interval": "100ms", "timeout": "5s", "rise": 1, "fall": 1}
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class Ready:
    """Says in its body how it is, to who brings the right field."""

    def __init__(self) -> None:
        self.body = b'{"state": "ready"}'
        self.methods: set[str] = set()

    def __call__(self, connection: Connection) -> None:
        while True:
            request = connection.read_request()
            self.methods.add(request.start.split(b" ")[0].decode())
            is_known = any(name == b"x-probe" and value == b"gateway" for name, value in request.fields)
            connection.send(response(self.body, 200 if is_known else 403))


@contextmanager
def grpc_server(*, is_secure: bool = False) -> Iterator[tuple[health.HealthServicer, int]]:
    servicer = health.HealthServicer()
    server = grpc.server(ThreadPoolExecutor(2))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    if is_secure:
        certs = material()[0] / "certs"
        pair = (next(certs.glob("*.key")).read_bytes(), next(certs.glob("*.crt")).read_bytes())
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield servicer, port
    finally:
        server.stop(0)


def states(gateway: Gateway) -> dict[str, str]:
    return {
        model["model"]: model["versions"][0]["endpoints"][0]["health"]
        for model in gateway.status()["models"]
        if model["model"]
    }


@pytest.mark.parametrize("is_secure", [False, True])
def test_grpc_health_is_asked_for_the_server_and_for_a_service(is_secure: bool) -> None:
    with grpc_server(is_secure=is_secure) as (servicer, port):
        servicer.set("", SERVING)
        servicer.set("inference.GRPCInferenceService", NOT_SERVING)
        url = f"{'https' if is_secure else 'http'}://localhost:{port}"
        ca = {"upstream_tls": {"ca": str(material()[0] / "certs" / "dev-ca" / "ca.crt")}}
        check: dict[str, Any] = {**OFTEN, "type": "grpc"}
        models = {
            "whole": served([url], auth=[], health=check, **ca),
            "one": served([url], auth=[], health={**check, "service": "inference.GRPCInferenceService"}, **ca),
            "unknown": served([url], auth=[], health={**check, "service": "x"}, **ca),
        }
        # The same address: as open as the most hopeful check says. So each by itself.
        for name, expected in (("whole", "up"), ("one", "down"), ("unknown", "down")):
            with Gateway({name: models[name]}) as gateway:
                until(lambda name=name: states(gateway)[name] != "checking", f"a check of {name}")
                assert states(gateway)[name] == expected, gateway.output
                if name == "one":
                    servicer.set("inference.GRPCInferenceService", SERVING)
                    until(lambda: states(gateway)["one"] == "up", "the service up")
                    servicer.set("inference.GRPCInferenceService", NOT_SERVING)
                    until(lambda: states(gateway)["one"] == "down", "the service down")
                    assert "gRPC: NOT_SERVING" in gateway.output


def test_tcp_body_port_and_fields() -> None:
    ready = Ready()
    with RawUpstream(ready) as upstream, RawUpstream(ready) as other:
        own = {**OFTEN, "headers": {"x-probe": "gateway"}, "contains": '"ready"'}
        port = int(other.url.rpartition(":")[2])
        models = {
            "tcp": served([upstream.url.replace("127.0.0.1", "localhost")], health={**OFTEN, "type": "tcp"}),
            "body": served([upstream.url], health={**own, "port": port}),
        }
        with Gateway(models) as gateway:
            until(lambda: states(gateway) == {"tcp": "up", "body": "up"}, "both up")
            ready.body = b'{"state": "loading"}'
            until(lambda: states(gateway) == {"tcp": "up", "body": "down"}, "the body's word")
            assert "without '\"ready\"' in its body" in gateway.output
            ready.body = b'{"state": "ready"}'
            until(lambda: states(gateway)["body"] == "up", "up again")
            assert ready.methods == {"GET"}, "no check costs a completion"
            assert other.requests, "the check's own port"
            upstream.refuse()
            until(lambda: states(gateway)["tcp"] == "down", "nobody accepts")
