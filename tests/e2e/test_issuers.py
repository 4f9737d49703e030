"""Issuers of JWTs over real connections: keys that are replaced while tokens come in."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jwt
import pytest

from tests.e2e.harness import DemoModel, Gateway, served, until
from tests.e2e.harness_issuer import Issuer

READY = "/models/demo/v2/health/ready"


@pytest.fixture(scope="module")
def demo() -> Iterator[DemoModel]:
    with DemoModel() as demo:
        yield demo


def status(gateway: Gateway, token: str, path: str = READY) -> int:
    with gateway.client(headers={"authorization": f"Bearer {token}"}) as client:
        return int(client.get(path).status_code)


def test_issuers_that_replace_their_keys_at_once_are_all_believed_at_once_and_the_old_ones_no_more(
    demo: DemoModel,
) -> None:
    with Issuer() as one, Issuer() as other:
        entries = {"auth": {"jwt": [one.entry(), other.entry()]}}
        with Gateway({"demo": served([demo.url], auth=["jwt"])}, entries) as gateway:
            old = one.token()
            until(lambda: status(gateway, old) == 200, "the first keys")
            until(lambda: status(gateway, other.token()) == 200, "the other issuer's first keys")
            one.rotate("second")
            other.rotate("second")
            one.delay, other.delay = 0.3, 0.6  # one's news comes while the other's are waited for
            with ThreadPoolExecutor() as pool:
                fresh = [pool.submit(status, gateway, issuer.token()) for issuer in (one, other, one, other)]
            assert [each.result() for each in fresh] == [200] * 4
            assert status(gateway, old) == 401, "its key is withdrawn"


def test_an_issuers_name_alone_is_enough_and_a_token_is_revoked_while_all_runs(demo: DemoModel, tmp_path: Path) -> None:
    revoked = tmp_path / "revoked"
    revoked.write_text("# none yet\n")
    with Issuer() as issuer:
        issuer.documents["/.well-known/openid-configuration"] = {
            "issuer": issuer.url, "jwks_uri": f"{issuer.url}/jwks.json",
        }  # fmt: skip
        entry = {**issuer.entry(revoked_file=str(revoked), types=["at+jwt"], scopes=["models"]), "jwks_url": None}
        with Gateway({"demo": served([demo.url], auth=["jwt"])}, {"auth": {"jwt": [entry]}}) as gateway:
            one, other = (issuer.token({"typ": "at+jwt"}, jti=each, scope="models") for each in "12")
            until(lambda: status(gateway, one) == 200, "the keys that the issuer's metadata lead to")
            assert status(gateway, issuer.token({"typ": "at+jwt"}, jti="3")) == 401, "it lacks the scope"
            assert status(gateway, issuer.token(jti="4", scope="models")) == 401, "it is of another type"
            revoked.write_text("# stolen\n1\n")
            assert gateway.reload() == []
            assert (status(gateway, one), status(gateway, other)) == (401, 200)
            revoked.unlink()
            (problem,) = gateway.reload()
            assert "auth.jwt[0].revoked_file" in problem
            assert (status(gateway, one), status(gateway, other)) == (401, 200)


def test_tokens_of_keys_that_do_not_exist_do_not_make_the_gateway_pester_the_issuer(demo: DemoModel) -> None:
    models = {"demo": served([demo.url], auth=["jwt"])}
    with Issuer() as issuer, Gateway(models, {"auth": {"jwt": [issuer.entry()]}}) as gateway:
        until(lambda: status(gateway, issuer.token()) == 200, "the keys")
        before = len(issuer.asked)
        assert [status(gateway, issuer.token({"kid": f"no-{n}"})) for n in range(8)] == [401] * 8
        assert len(issuer.asked) - before == 1
        assert status(gateway, issuer.token()) == 200


def test_a_shared_secret_is_believed_where_it_is_spelled_out_and_can_be_replaced_while_all_runs(
    demo: DemoModel, tmp_path: Path
) -> None:
    def by(secret: str, issuer: str = "shop") -> str:
        claims = {"iss": issuer, "aud": "models", "sub": "alice", "exp": int(time.time()) + 600}
        return jwt.encode(claims, secret, "HS256")

    secret, other, third = (f"{number:032x}" for number in (1, 2, 3))
    (tmp_path / "secret").write_text(secret + "\n")
    common = {"audience": ["models"], "algorithms": ["HS256"]}
    entries = [
        {"issuer": "shop", "secret_file": str(tmp_path / "secret"), **common},
        {"issuer": "till", "secret_env": "TILL_SECRET", **common},
    ]
    models = {"demo": served([demo.url], auth=["jwt"])}
    with Gateway(models, {"auth": {"jwt": entries}}, env={"TILL_SECRET": third}) as gateway:
        assert (status(gateway, by(secret)), status(gateway, by(other))) == (200, 401)
        assert (status(gateway, by(third, "till")), status(gateway, by(secret, "till"))) == (200, 401)
        (tmp_path / "secret").write_text(other)
        until(lambda: status(gateway, by(other)) == 200, "the new secret")
        assert status(gateway, by(secret)) == 401
        (tmp_path / "secret").write_text("short")
        gateway.reload()
        assert status(gateway, by(other)) == 200, "a secret that cannot be used changes nothing"
        assert (status(gateway, by("short" * 10)), status(gateway, by(third, "till"))) == (401, 200)
        told = gateway.output + gateway.metrics() + str(gateway.status())
        assert not any(each in told for each in (secret, other, third))
