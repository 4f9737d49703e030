"""No secret is in anything that the gateway prints or serves: a run that uses and abuses all of them."""

import base64
import re
from pathlib import Path

import httpx2
import pytest

from gateway.stores.keys import mint
from tests.e2e.conftest import secrets_in
from tests.e2e.harness import DemoModel, Gateway, run_gateway, served, until
from tests.e2e.harness_issuer import Issuer

READY = "/v2/health/ready"
UPSTREAM, FROM_ENV = "sk-upstream-file-0815", "sk-upstream-env-0816"
ADMIN = "admin-token-0123456789"


def test_no_secret_is_in_anything_that_the_gateway_prints_or_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "upstream").write_text(UPSTREAM)
    file, env = {"value_file": str(tmp_path / "upstream")}, {"value_env": "UPSTREAM_KEY"}
    with DemoModel() as demo, Issuer() as issuer:
        dead = "http://127.0.0.1:1"
        models = {
            "demo": served([demo.url], auth=["key", "jwt"], upstream_auth=file, sticky={}),
            "dead": served([dead], auth=["key", "jwt"], upstream_auth=env, timeouts={"connect": "500ms"}),
            "hidden": served([demo.url], auth=["jwt"], allow=[{"scope": "x"}], hide=True),
        }
        settings = {"auth": {"jwt": [issuer.entry()], "failures": {"rate": "20/minute"}}}
        monkeypatch.setenv("UPSTREAM_KEY", FROM_ENV)
        monkeypatch.setenv("GATEWAY_ADMIN_TOKEN", ADMIN)
        with Gateway(models, settings, wait=False) as gateway:
            good, expired = issuer.token(), issuer.token(exp=1)
            forged = good[:-20] + "A" * 20
            foreign = "gw_aaaaaaaaaa_" + "B" * 49
            served_text = []

            def ask(credential: str, path: str, header: str = "authorization") -> int:
                value = f"Bearer {credential}" if header == "authorization" else credential
                with gateway.client(headers={header: value}) as client:
                    answer = client.get(path)
                served_text.append(f"{answer.status_code} {answer.headers.multi_items()} ")
                if "echo" not in path:  # the model server's own words
                    served_text.append(answer.text)
                return int(answer.status_code)

            def is_ready() -> bool:
                gateway.check_alive()
                return "serving" in gateway.output and ask(good, f"/models/demo{READY}") == 200

            until(is_ready, "the gateway and the issuer's keys")
            assert ask(gateway.key, f"/models/demo{READY}", "x-api-key") == 200
            assert ask(gateway.key, "/v1/models") == 200
            assert ask(good, f"/models/dead{READY}") in (502, 503, 504)
            for bad in (forged, expired, foreign, good + "=", gateway.key[:-1]):
                assert ask(bad, f"/models/demo{READY}") in (401, 429)
                ask(bad, f"/models/hidden{READY}")
                ask(bad, f"/models/nothing{READY}")
            door = {"authorization": f"Bearer {ADMIN}"}
            told = [httpx2.get(gateway.admin_url + path, headers=door).text for path in ("/metrics", "/status", "/")]
            assert [name for name in ("gateway_", "workers") if name not in told[0] + told[1]] == []
            request = ("explain", "GET", f"/models/demo{READY}", "-H", f"authorization: Bearer {good}")
            commands = [request, ("check",), ("keys", "list"), ("keys", "show", "alice")]
            told += [run_gateway(*command, folder=gateway.folder) for command in commands]
            (tmp_path / "upstream").write_text(UPSTREAM + "\nX: y")
            with pytest.raises(AssertionError, match="upstream_auth") as refused:
                run_gateway("check", folder=gateway.folder)
            told.append(str(refused.value))
            session = (gateway.folder / ".gateway" / "session.secret").read_bytes()
            pepper = re.search(r'pepper: "?([^"\n]+)', (gateway.folder / "keys.yaml").read_text())
            assert pepper is not None
            published = (gateway.folder / ".gateway" / "published").read_bytes().decode("latin-1")
        everything = "\n".join([*served_text, *told, gateway.output])
        assert "principal" in everything, "there is an access log to look through"
        secrets = {
            "key": gateway.key, "half a key": gateway.key[14:40], "token": good, "signature": good.split(".")[2][:40],
            "forged": forged.split(".")[2], "expired": expired, "foreign": foreign, "pepper": pepper[1],
            "admin": ADMIN, "upstream": UPSTREAM, "from env": FROM_ENV, "session": session.hex(),
            "in base64": base64.b64encode(session).decode().rstrip("="), "raw": session.decode("latin-1"),
        }  # fmt: skip
        assert [name for name, secret in secrets.items() if secret in everything] == []
        kept = ["key", "token", "upstream", "from env", "admin"]
        assert [name for name in kept if secrets[name] in published] == [], "nor in what the processes hand on"


def test_the_search_over_the_whole_suites_output_would_find_each_kind_of_secret() -> None:
    key = mint()[1]
    token = issuer_token = ".".join(["eyJhbGciOiJFUzI1NiJ9", "eyJzdWIiOiJhbGljZSJ9", "c2lnbmF0dXJlc2lnbmF0dXJl"])
    hashed = "$2b$10$" + "a" * 53
    text = f"key={key} t={token} h={hashed} a=Basic YWxpY2U6c2VzYW1l -----BEGIN PRIVATE KEY-----\n"
    assert len(secrets_in(text.encode())) == 5
    assert secrets_in(f"{key[:-1]}! {issuer_token[:50]} Basic auth".encode()) == []
