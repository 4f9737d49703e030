"""Sessions: a client that comes back finds its endpoint, and loses nothing but the place if it cannot."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from http.cookies import SimpleCookie
from typing import Any

import pytest

from tests.e2e.harness import Gateway, served, temporary_folder, until
from tests.e2e.harness_upstream import RawUpstream, answering
from tests.e2e.harness_wire import RawMessage, Wire

NAMES = ["a", "b", "c"]
TTL = 2  # seconds


@pytest.fixture(scope="module")
def upstreams() -> Iterator[dict[str, RawUpstream]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(RawUpstream(answering(name.encode()))) for name in NAMES}


@pytest.fixture(scope="module")
def models(upstreams: dict[str, RawUpstream]) -> dict[str, Any]:
    url = {name: upstream.url for name, upstream in upstreams.items()}
    public: dict[str, Any] = {"auth": [], "balance": {"policy": "round_robin"}}
    return {
        "m": served(list(url.values()), **public, sticky={"cookie": "gw", "ttl": "1h"}),
        "other": served(list(url.values()), **public, sticky={"cookie": "gw", "ttl": "1h"}),
        "brief": served(list(url.values()), **public, sticky={"cookie": "brief", "ttl": f"{TTL}s"}),
        "split": public
        | {
            "sticky": {"cookie": "split", "ttl": "1h"},
            "versions": {
                "v1": {"endpoints": [url["a"]], "weight": 50},
                "v2": {"endpoints": [url["b"]], "weight": 50},
            },
        },
    }


@pytest.fixture(scope="module")
def gateway(models: dict[str, Any]) -> Iterator[Gateway]:
    with Gateway(models, {"gateway": {"workers": 2}}) as gateway:
        yield gateway


@pytest.fixture
def client(gateway: Gateway) -> Iterator[Wire]:
    with gateway.raw() as client:
        yield client


def ask(client: Wire, model: str, cookie: str = "", *, version: str = "") -> RawMessage:
    arm = f"/versions/{version}" if version else ""
    field = f"Cookie: {cookie}\r\n" if cookie else ""
    client.send(f"GET /models/{model}{arm}/x HTTP/1.1\r\nHost: a\r\n{field}\r\n".encode())
    return client.read_response()


def cookie_of(answer: RawMessage) -> str:
    """`name=value` of the cookie that is set, "" if none is."""
    return (answer.get("set-cookie") or "").partition(";")[0]


def test_a_first_answer_sets_a_cookie_that_browsers_keep_to_themselves(client: Wire) -> None:
    morsel = SimpleCookie(ask(client, "m").get("set-cookie"))["gw"]
    assert (morsel["path"], morsel["max-age"], morsel["samesite"]) == ("/", "3600", "Lax")
    assert morsel["httponly"]
    assert morsel["secure"]


def test_a_client_stays_at_its_endpoint_whatever_connection_and_worker_it_comes_by(gateway: Gateway) -> None:
    with gateway.raw() as first:
        answer = ask(first, "m")
    cookie, home = cookie_of(answer), answer.body
    for _ in range(12):
        with gateway.raw() as client:
            again = ask(client, "m", cookie)
            assert (again.body, cookie_of(again)) == (home, "")


def test_clients_without_a_cookie_are_spread(client: Wire) -> None:
    assert set(Counter(ask(client, "m").body for _ in range(12))) == {b"a", b"b", b"c"}


def test_the_model_server_sees_the_clients_other_cookies_and_not_ours(
    client: Wire, upstreams: dict[str, RawUpstream]
) -> None:
    answer = ask(client, "m")
    ask(client, "m", f"x=1; {cookie_of(answer)}; y=2")
    assert upstreams[answer.body.decode()].requests[-1].get("cookie") == "x=1; y=2"
    ask(client, "m", cookie_of(answer))
    assert upstreams[answer.body.decode()].requests[-1].get("cookie") is None


@pytest.mark.parametrize("damage", ["gw=", "gw=x", "gw=" + "A" * 48, "gw=" + "A" * 4000, "gw=a.b.c", 'gw="', "=gw"])
def test_a_forged_cookie_is_nothing_and_a_good_one_is_given(client: Wire, damage: str) -> None:
    assert cookie_of(ask(client, "m", damage)).startswith("gw=")


def test_a_cookie_that_was_changed_is_nothing(client: Wire) -> None:
    answer = ask(client, "m")
    name, _, token = cookie_of(answer).partition("=")
    other = token[:-1] + ("A" if token[-1] != "A" else "B")
    again = ask(client, "m", f"{name}={other}")
    assert cookie_of(again) not in ("", f"{name}={other}")


def test_a_cookie_of_another_model_is_carried_along_and_means_nothing(client: Wire) -> None:
    """One cookie of a host serves all its models."""
    first = ask(client, "m")
    second = ask(client, "other", cookie_of(first))
    both = cookie_of(second)
    assert len(both) > len(cookie_of(first))
    for _ in range(4):
        assert ask(client, "m", both).body == first.body
        assert ask(client, "other", both).body == second.body


def test_a_session_is_renewed_when_half_its_time_is_over_and_ends_after_it(gateway: Gateway) -> None:
    def renewed(cookie: str) -> str:
        with gateway.raw() as client:
            answer = ask(client, "brief", cookie)
            assert answer.body == home
            return cookie_of(answer)

    with gateway.raw() as client:
        answer = ask(client, "brief")
    cookie, home = cookie_of(answer), answer.body
    assert renewed(cookie) == ""
    fresh = until(lambda: renewed(cookie), "the renewal", TTL)
    assert fresh != cookie

    def is_over() -> bool:
        with gateway.raw() as client:
            return any(ask(client, "brief", cookie).body != home for _ in range(4))

    until(is_over, "the session's end", 2 * TTL)


def test_a_session_keeps_its_version_and_a_version_that_is_named_wins(client: Wire) -> None:
    answer = ask(client, "split")
    cookie, home = cookie_of(answer), answer.body
    assert {ask(client, "split", cookie).body for _ in range(20)} == {home}
    other = "v2" if home == b"a" else "v1"
    assert ask(client, "split", cookie, version=other).body != home
    assert ask(client, "split", cookie).body == home


def test_a_session_whose_endpoint_is_gone_goes_elsewhere_and_stays_there(
    gateway: Gateway, models: dict[str, Any]
) -> None:
    with gateway.raw() as client:
        answer = until(lambda: (found := ask(client, "m")).body == b"a" and found, "a session at a")
        left = [
            e
            for e in models["m"]["versions"]["v1"]["endpoints"]
            if e != models["split"]["versions"]["v1"]["endpoints"][0]
        ]
        assert (
            gateway.reload({**models, "m": served(left, **{k: v for k, v in models["m"].items() if k != "versions"})})
            == []
        )
        try:
            moved = ask(client, "m", cookie_of(answer))
            assert moved.body in (b"b", b"c")
            assert cookie_of(moved) not in ("", cookie_of(answer))
            assert {ask(client, "m", cookie_of(moved)).body for _ in range(6)} == {moved.body}
        finally:
            assert gateway.reload(models) == []


def test_a_session_whose_endpoint_refuses_goes_elsewhere(
    gateway: Gateway, client: Wire, upstreams: dict[str, RawUpstream]
) -> None:
    answer = until(lambda: (found := ask(client, "m")).body == b"c" and found, "a session at c")
    refusing = upstreams["c"]
    refusing.refuse()
    for connection in refusing.connections:
        connection.close()
    try:
        moved = ask(client, "m", cookie_of(answer))
        assert moved.body in (b"a", b"b")
        assert cookie_of(moved) != ""
        assert {ask(client, "m", cookie_of(moved)).body for _ in range(4)} == {moved.body}
    finally:
        refusing.listen()


def test_a_gateway_with_the_same_secret_knows_the_sessions_of_another(gateway: Gateway, models: dict[str, Any]) -> None:
    """So does one that was restarted: the secret is a file."""
    with gateway.raw() as client:
        answer = ask(client, "m")
    secret = gateway.folder / ".gateway" / "session.secret"
    assert secret.stat().st_mode & 0o077 == 0
    folder = temporary_folder("gateway-")
    (folder / ".gateway").mkdir(mode=0o700)
    (folder / ".gateway" / "session.secret").write_bytes(secret.read_bytes())
    with Gateway(models, folder=folder) as successor, successor.raw() as client:
        assert {ask(client, "m", cookie_of(answer)).body for _ in range(6)} == {answer.body}


def test_a_new_secret_in_front_signs_and_the_old_one_is_still_believed(
    gateway: Gateway, models: dict[str, Any]
) -> None:
    with gateway.raw() as client:
        old = ask(client, "m")
    secret = (gateway.folder / ".gateway" / "session.secret").read_bytes()
    folder = temporary_folder("gateway-")
    (folder / ".gateway").mkdir(mode=0o700)
    (folder / ".gateway" / "session.secret").write_bytes(b"a new secret of sixteen bytes or more\n%b\n" % secret)
    with Gateway(models, folder=folder) as rotated, rotated.raw() as client:
        assert {ask(client, "m", cookie_of(old)).body for _ in range(6)} == {old.body}
        new = cookie_of(ask(client, "m"))
    with gateway.raw() as client:  # which has the old one alone
        assert cookie_of(ask(client, "m", new)) not in ("", new)
