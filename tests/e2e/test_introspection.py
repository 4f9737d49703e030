"""Opaque tokens over real connections: asked about once, remembered by each worker, refused in time, and 503 without
the issuer."""

import time
from typing import Any
from urllib.parse import parse_qs

from tests.e2e.harness import Gateway, served, until
from tests.e2e.harness_decider import Decider, Reply, as_json
from tests.e2e.harness_upstream import RawUpstream, answering

SECRET = "the-gateways-own-secret"


def test_tokens_are_asked_about_remembered_and_revoked(tmp_path: Any) -> None:
    active = {"one", "two"}
    state = {"status": 200}

    def reply(asked: dict[str, Any]) -> Reply:
        (token,) = parse_qs(asked["body"])["token"]
        if token not in active:
            return as_json({"active": False}, state["status"])
        claims = {"active": True, "sub": token, "scope": "models", "exp": int(time.time()) + 600, "aud": "models"}
        return as_json(claims, state["status"])

    (tmp_path / "secret").write_text(SECRET + "\n")
    with Decider(reply) as issuer, RawUpstream(answering(b"ok")) as upstream:
        introspection = {
            "url": f"{issuer.url}/introspect", "client_id": "gateway", "secret_file": str(tmp_path / "secret"),
            "audience": ["models"], "cache": "5s", "negative_cache": "1m", "claims_to_headers": {"sub": "x-user"},
        }  # fmt: skip
        models = {
            "iris": served([upstream.url], auth=["key", "introspection"], allow=[{"scope": "models"}]),
            "public": served([upstream.url], auth=[]),
        }
        with Gateway(models, {"auth": {"introspection": introspection}}) as gateway:

            def ask(token: str, path: str = "/models/iris/x", **headers: str) -> int:
                with gateway.client(headers={"authorization": f"Bearer {token}", **headers}) as client:
                    return int(client.get(path).status_code)

            assert [ask("one", **{"x-user": "root"}) for _ in range(3)] == [200] * 3
            assert upstream.requests[-1].all("x-user") == ["one"]
            assert upstream.requests[-1].get("authorization") is None
            assert len(issuer.asked) == 1
            assert issuer.asked[0]["headers"]["authorization"].startswith("Basic ")
            assert (ask("three"), ask("three"), len(issuer.asked)) == (401, 401, 2)
            assert (ask(gateway.key), len(issuer.asked)) == (200, 2)
            assert ask("one", "/v1/models") == 200
            assert ask("one", "/models/public/x", **{"x-user": "root"}) == 200
            assert upstream.requests[-1].all("x-user") == []
            active.discard("one")
            until(lambda: ask("one") == 401, "the end of a revoked token")
            state["status"] = 500
            assert ask("four") == 503
            state["status"] = 200
            assert ask("two") == 200
            issuer.server.shutdown()
            issuer.server.server_close()
            assert ask("two") == 200, "it is remembered"
            told = gateway.output + gateway.metrics() + str(gateway.status())
            assert SECRET not in told
