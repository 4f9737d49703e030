"""Basic authentication: passwords beside the event loop, remembered while they are good, and no telling who exists."""

import asyncio
import threading
import time
from base64 import b64encode
from statistics import median
from typing import Any

import bcrypt
import pytest

from gateway.edge import users as module
from gateway.edge.authenticate import Authenticate, Means
from gateway.edge.users import Users
from gateway.errors import AuthenticationBusy, GatewayError, Unauthenticated
from gateway.model import Exchange
from gateway.stores.keys import EMPTY

HASH = bcrypt.hashpw(b"open sesame", bcrypt.gensalt(4)).decode()
OTHER = bcrypt.hashpw(b"another", bcrypt.gensalt(4)).decode()


def presented(user: str = "alice", password: str = "open sesame") -> bytes:
    return b"Basic " + b64encode(f"{user}:{password}".encode())


def ask(users: Users, credential: bytes, now: float = 0.0, address: str = "192.0.2.1") -> str:
    """As the layer does -> the user's name. Raises what it raises."""

    async def main() -> str:
        known = users.recall(credential, now)
        return (known or await users.ask(credential, now, address)).name

    return asyncio.run(main())


def test_a_user_is_known_by_his_password_and_once_only_looked_at() -> None:
    users = Users({"alice": HASH})
    assert ask(users, presented()) == "alice"
    assert users.recall(presented(), 0.0) is not None


BAD = {
    "wrong password": presented(password="open"),
    "no such user": presented("mallory"),
    "another case": presented("Alice"),
    "no colon": b"Basic " + b64encode(b"alice"),
    "no base64": b"Basic alice:open sesame",
    "padding inside": b"Basic YWxp=Y2U6b3Blbg==",
    "nothing": b"Basic ",
    "not UTF-8": b"Basic " + b64encode(b"\xff\xfe:x"),
    "too long": presented(password="x" * 2000),
    "password cut off": presented(password="open sesame\x00"),
    "name with NUL": presented("alice\x00"),
}


@pytest.mark.parametrize("name", BAD)
def test_whoever_has_no_such_password_is_refused(name: str) -> None:
    users = Users({"alice": HASH})
    for _ in range(2):  # looked at, then remembered as wrong
        with pytest.raises(Unauthenticated):
            ask(users, BAD[name])


def test_the_password_of_a_decoy_opens_nothing() -> None:
    """A user that does not exist is looked at with somebody else's hash."""
    with pytest.raises(Unauthenticated):
        ask(Users({"alice": HASH}), presented("nobody"))


def test_a_wrong_password_is_looked_at_again_after_a_while_and_costs_nothing_until_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[bytes] = []

    def is_password(hashed: str, password: bytes) -> bool:
        looked.append(password)
        return False

    users = Users({"alice": HASH})
    users._is_password = is_password
    for now in (0.0, 5.0, 9.9, 10.1):
        with pytest.raises(Unauthenticated):
            ask(users, presented(), now)
    assert len(looked) == 2


def test_who_is_taken_out_or_gets_another_password_is_forgotten_at_once() -> None:
    users = Users({"alice": HASH, "bob": HASH})
    assert ask(users, presented()) == "alice"
    users.adopt({"alice": OTHER})
    with pytest.raises(Unauthenticated):
        ask(users, presented())
    with pytest.raises(Unauthenticated):
        ask(users, presented("bob"))
    assert ask(users, presented(password="another")) == "alice"
    users.adopt({"alice": HASH})
    assert ask(users, presented()) == "alice"


def test_a_password_that_is_looked_at_while_the_file_changes_is_not_remembered() -> None:
    async def main() -> None:
        users = Users({"alice": HASH})
        asked = asyncio.ensure_future(users.ask(presented(), 0.0, "a"))
        await asyncio.sleep(0)
        users.adopt({"bob": HASH})
        with pytest.raises(Unauthenticated):
            await asked
        assert users.recall(presented(), 0.0) is None

    asyncio.run(main())


def test_what_is_remembered_is_bounded() -> None:
    users = Users({str(n): HASH for n in range(4)}, remembered=2)
    for n in range(4):
        ask(users, presented(str(n)))
    assert [users.recall(presented(str(n)), 0.0) is not None for n in range(4)] == [False, False, True, True]


class Gate:
    """A check of passwords that waits until it is opened."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.looked: list[bytes] = []

    def __call__(self, hashed: str, password: bytes) -> bool:
        self.looked.append(password)
        self.opened.wait(20)
        return True


def gated() -> tuple[Users, Gate]:
    users, gate = Users({"alice": HASH}), Gate()
    users._is_password = gate
    return users, gate


async def asked(users: Users, number: int, address: str) -> list[Any]:
    tasks = [
        asyncio.ensure_future(users.ask(presented(password=f"{address} {n}"), 0.0, address)) for n in range(number)
    ]
    await asyncio.sleep(0)
    return tasks


def test_one_address_takes_few_of_the_places_and_all_together_no_more_than_there_are() -> None:
    async def main() -> None:
        users, gate = gated()
        first = await asked(users, 10, "one")
        others = [task for n in range(20) for task in await asked(users, 2, str(n))]
        await asyncio.sleep(0.05)
        refused = [task for task in first if task.done()]
        assert [type(task.exception()) for task in refused] == [AuthenticationBusy] * 6
        assert sum(not task.done() for task in others) == module._MOST_WAITING - 4
        gate.opened.set()
        done = await asyncio.gather(*first, *others, return_exceptions=True)
        assert sum(isinstance(each, AuthenticationBusy) for each in done) == 6 + 40 - 28
        assert repr(users) == "<Users 1 in all, 32 remembered, 0 looked at>"
        assert users._waiting == {}

    asyncio.run(main())


def test_the_same_password_at_the_same_time_is_looked_at_once_and_who_waits_may_leave() -> None:
    async def main() -> None:
        users, gate = gated()
        tasks = [asyncio.ensure_future(users.ask(presented(), 0.0, str(n))) for n in range(5)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.sleep(0)
        gate.opened.set()
        assert {principal.name for principal in await asyncio.gather(*tasks[1:])} == {"alice"}
        assert len(gate.looked) == 1

    asyncio.run(main())


def test_the_event_loop_goes_on_while_a_password_is_looked_at() -> None:
    slow = bcrypt.hashpw(b"x", bcrypt.gensalt(10)).decode()

    async def main() -> int:
        users, turns = Users({"alice": slow}), 0
        asked = asyncio.ensure_future(users.ask(presented(password="x"), 0.0, "a"))
        while not asked.done():
            await asyncio.sleep(0.001)
            turns += 1
        await asked
        return turns

    assert asyncio.run(main()) >= 3


def test_a_user_that_does_not_exist_takes_as_long_as_one_who_does() -> None:
    hashed = bcrypt.hashpw(b"x", bcrypt.gensalt(8)).decode()

    def once(user: str) -> float:
        users = Users({"alice": hashed})
        began = time.thread_time_ns()
        users._is_password(users._hashes.get(user) or users._decoy(user), b"wrong")
        return time.thread_time_ns() - began

    known, unknown = (median(once(user) for _ in range(7)) for user in ("alice", "mallory"))
    assert 0.5 < known / unknown < 2


def test_the_state_can_be_seen_but_no_password() -> None:
    users = Users({"alice": HASH})
    ask(users, presented())
    assert repr(users) == "<Users 1 in all, 1 remembered, 0 looked at>"
    assert presented() not in str(vars(users)).encode()


# --- in the layer ---


class Behind:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        pass


def call(*headers: tuple[bytes, bytes], methods: tuple[str, ...] = ("key", "basic")) -> Exchange:
    layer = Authenticate(Behind(), methods=methods, means=Means(EMPTY, users=Users({"alice": HASH})))
    exchange = Exchange("r", 0.0, "192.0.2.1")
    asyncio.run(layer({"type": "http", "exchange": exchange, "headers": list(headers)}, None, None))  # type: ignore[arg-type]
    return exchange


def test_the_scheme_ignores_case_and_the_principal_says_what_it_is() -> None:
    for scheme in (b"Basic", b"basic", b"BASIC  "):
        principal = call((b"authorization", scheme + presented()[5:])).principal
        assert (principal.id, principal.kind, principal.grants) == ("htpasswd|alice", "basic", None)


def test_who_must_prove_himself_is_told_how() -> None:
    told = {}
    for methods in (("basic",), ("key", "basic"), ("key",)):
        with pytest.raises(GatewayError) as caught:
            call(methods=methods)
        told[methods] = [value for _, value in caught.value.headers]
    bearer, basic = b'Bearer realm="models"', b'Basic realm="models", charset="UTF-8"'
    assert told == {("basic",): [basic], ("key", "basic"): [bearer, basic], ("key",): [bearer]}


def test_a_password_where_none_is_taken_is_not_even_looked_at() -> None:
    with pytest.raises(Unauthenticated):
        call((b"authorization", presented()), methods=("key",))
