import asyncio
from typing import Any

import pytest

from gateway.core.body import Replay
from gateway.edge.admit import BoundBody
from gateway.edge.body import read_body
from gateway.errors import ClientLeft, TooLarge


def source(*parts: bytes | None) -> Any:
    """A `receive` of these parts; None: the client leaves."""
    queue = [
        {"type": "http.disconnect"}
        if part is None
        else {"type": "http.request", "body": part, "more_body": index + 1 < len(parts)}
        for index, part in enumerate(parts)
    ]

    async def receive() -> Any:
        return queue.pop(0)

    receive.queue = queue  # type: ignore[attr-defined]
    return receive


def pass_through(bound: int, *parts: bytes, length: int | None = None) -> bytes:
    """What an app that reads everything gets."""
    got: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while True:
            message = await receive()
            got.append(message["body"])
            if not message["more_body"]:
                return

    headers = [] if length is None else [(b"content-length", b"%d" % length)]
    asyncio.run(BoundBody(app, bound=bound)({"type": "http", "headers": headers}, source(*parts), None))  # type: ignore[arg-type]
    return b"".join(got)


@pytest.mark.parametrize("length", [None, 5])
def test_a_body_up_to_the_bound_passes(length: int | None) -> None:
    assert pass_through(5, b"ab", b"cde", length=length) == b"abcde"


def test_a_length_over_the_bound_is_refused_before_anything_is_read() -> None:
    parts = source(b"abcdef")
    with pytest.raises(TooLarge):
        asyncio.run(
            BoundBody(None, bound=5)({"type": "http", "headers": [(b"content-length", b"6")]}, parts, None)  # type: ignore[arg-type]
        )
    assert len(parts.queue) == 1


def test_bytes_over_the_bound_are_refused_when_they_come() -> None:
    with pytest.raises(TooLarge):
        pass_through(5, b"abc", b"def", b"never read")


def test_reading_a_body_gives_all_of_it_or_says_why_not() -> None:
    assert asyncio.run(read_body(source(b"abc"), 3)) == b"abc"
    assert asyncio.run(read_body(source(b"a", b"", b"bc"), 3)) == b"abc"
    for parts in ((b"abcd",), (b"ab", b"cd", b"")):
        with pytest.raises(TooLarge):
            asyncio.run(read_body(source(*parts), 3))
    for left in ((None,), (b"a", None)):
        with pytest.raises(ClientLeft):
            asyncio.run(read_body(source(*left), 3))


def test_a_body_that_was_read_is_given_once_more_and_then_what_the_connection_says() -> None:
    async def main() -> list[Any]:
        replay = Replay(b"abc", source(None))
        return [await replay() for _ in range(2)]

    first, second = asyncio.run(main())
    assert first == {"type": "http.request", "body": b"abc", "more_body": False}
    assert second == {"type": "http.disconnect"}
