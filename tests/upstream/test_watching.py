"""Who watches a pool is told of every attempt: that it began, that the answer's head came, how it ended."""

import asyncio
from math import inf

from gateway.core.endpoint import Health
from gateway.errors import ClientLeft, ConnectFailed, UpstreamClosed
from tests.upstream.forwarding import Bench, Notes, Server, answering, breaking, hanging, run


def test_a_good_answer_is_told_in_three_moments_with_what_the_policy_picked_by() -> None:
    notes = Notes()

    async def test(bench: Bench, server: Server) -> None:
        assert (await bench.ask()).body == b"ok"
        assert notes.told == [("began", b"features"), ("first byte", b"features"), ("ended", b"features")]
        (outcome,) = notes.outcomes
        assert (outcome.status, outcome.error) == (200, None)
        assert 0 < outcome.first_byte <= outcome.seconds
        assert not outcome.is_failure

    run(test, answering(), watchers=(notes,), key_of=lambda scope, exchange: b"features")


def test_an_attempt_that_found_nobody_began_and_ended_before_another() -> None:
    notes = Notes()

    async def test(bench: Bench, *servers: Server) -> None:
        while len(notes.told) != 5:
            notes.told.clear()
            await bench.ask()
        assert [what for what, _ in notes.told] == ["began", "ended", "began", "first byte", "ended"]
        failed = next(outcome for outcome in notes.outcomes if outcome.is_failure)
        assert isinstance(failed.error, ConnectFailed)
        assert (failed.status, failed.first_byte) == (0, inf)

    run(test, None, answering(), watchers=(notes,))


def test_a_server_that_breaks_off_failed_and_a_client_that_leaves_did_not() -> None:
    notes = Notes()

    async def test(bench: Bench, broken: Server, silent: Server) -> None:
        bench.pool.endpoints[1].row.health[1] = Health.DOWN  # type: ignore[index]
        assert isinstance(await bench.error("POST"), UpstreamClosed)
        assert notes.outcomes[0].is_failure
        bench.pool.endpoints[1].row.health[:] = [Health.DOWN, Health.UP]  # type: ignore[index]
        exchange = bench.exchange()
        asking = asyncio.create_task(bench.error("POST", exchange=exchange))
        while not silent.heads:
            await asyncio.sleep(0.01)
        exchange.leave()
        assert isinstance(await asking, ClientLeft)
        assert isinstance(notes.outcomes[1].error, ClientLeft)
        assert not notes.outcomes[1].is_failure

    run(test, breaking, hanging, watchers=(notes,))


def test_a_cancelled_attempt_is_told_as_a_client_that_left() -> None:
    notes = Notes()

    async def test(bench: Bench, silent: Server) -> None:
        asking = asyncio.create_task(bench.ask())
        while not silent.heads:
            await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.wait([asking])
        assert [type(outcome.error) for outcome in notes.outcomes] == [ClientLeft]
        assert bench.endpoints[0].in_flight == 0

    run(test, hanging, watchers=(notes,))


def test_that_an_endpoint_wants_to_be_left_alone_is_part_of_the_outcome() -> None:
    notes = Notes()

    async def test(bench: Bench, server: Server) -> None:
        assert (await bench.ask()).status == 503
        assert (notes.outcomes[0].status, notes.outcomes[0].retry_after) == (503, 7.0)
        assert notes.outcomes[0].is_failure

    run(test, answering(status=503, fields=b"retry-after: 7\r\n"), watchers=(notes,))
