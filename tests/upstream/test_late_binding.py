"""A prompt waits in the line, bound to no endpoint, while every endpoint has more than so much to prefill."""

import asyncio
from collections import Counter

from gateway.core.inference import Inference, Informed
from gateway.core.pick import PROMPTED
from gateway.core.prompt import Prompt
from gateway.model import Exchange, Principal
from tests.upstream.forwarding import Answer, Bench, Server, run
from tests.upstream.test_gate import Held, Zone, gate, until

CHUNK = 2048


def prepare(bench: Bench) -> None:
    """The pool's policy reads prompts, and its gate bounds what is pending."""
    policy = Informed(PROMPTED["lpwl"](bench.endpoints))
    bench.pool.policy, bench.pool.watchers = policy, (policy,)
    bench.forward.key_of = lambda scope, exchange: exchange.inference
    gate(bench, Zone().worker(0), pending=CHUNK)


def ask(bench: Bench, tokens: int, name: str = "alice", rank: int = 1) -> "asyncio.Task[Answer]":
    exchange: Exchange = bench.exchange()
    exchange.principal = Principal(name, name, "key")
    exchange.inference = Inference(Prompt(tokens))
    return asyncio.ensure_future(bench.ask("POST", [(b"rank", b"%d" % rank)], b"{}", exchange))


def pending(bench: Bench) -> list[int]:
    return [endpoint.work.pending for endpoint in bench.endpoints]


def test_a_prompt_waits_while_every_endpoint_has_more_than_a_chunk_before_it() -> None:
    servers = [Held(), Held()]

    async def test(bench: Bench, *peers: Server) -> None:
        prepare(bench)
        first = [ask(bench, 3000) for _ in range(2)]
        await until(lambda: [len(server.doors) for server in servers] == [1, 1])
        late = ask(bench, 100)
        await asyncio.sleep(0.05)
        assert pending(bench) == [3000, 3000]
        servers[1].let_go()
        await until(lambda: len(servers[1].doors) == 2)  # where there was room first
        assert sorted(pending(bench)) == [100, 3000]
        for server in servers:
            server.let_go()
        assert [answer.status for answer in await asyncio.gather(*first, late)] == [200] * 3
        assert pending(bench) == [0, 0]

    run(test, *servers)


def test_the_line_fills_an_endpoint_to_its_bound_and_not_all_at_once() -> None:
    server = Held()

    async def test(bench: Bench, peer: Server) -> None:
        prepare(bench)
        tasks = [ask(bench, 3000)]
        await until(lambda: len(server.doors) == 1)
        tasks += [ask(bench, 1500) for _ in range(5)]
        await asyncio.sleep(0.05)
        server.let_go()
        # 1500 is less than a chunk, 3000 is more: two go, the others wait on.
        await until(lambda: len(server.doors) == 3)
        await asyncio.sleep(0.05)
        assert pending(bench) == [3000]
        for _ in range(5):
            server.let_go()
            await asyncio.sleep(0.03)
            assert pending(bench)[0] <= 3000
        assert Counter(answer.status for answer in await asyncio.gather(*tasks)) == {200: 6}

    run(test, server)


def test_the_more_important_goes_first_and_who_leaves_waits_no_more() -> None:
    server = Held()

    async def test(bench: Bench, peer: Server) -> None:
        prepare(bench)
        tasks = [ask(bench, 3000)]
        await until(lambda: len(server.doors) == 1)
        gone, low, high = (ask(bench, 3000, who, rank) for who, rank in (("a", 1), ("b", 2), ("c", 0)))
        await asyncio.sleep(0.02)
        gone.cancel()
        await asyncio.sleep(0.02)
        server.let_go()
        await until(lambda: len(server.doors) == 2)
        server.let_go()
        await high
        assert not low.done()
        await until(lambda: len(server.doors) == 3)
        server.let_go()
        await asyncio.gather(low, *tasks)
        assert pending(bench) == [0]
        assert gone.cancelled()

    run(test, server)


def test_what_has_no_prompt_does_not_wait_for_those_that_have() -> None:
    server = Held()

    async def test(bench: Bench, peer: Server) -> None:
        prepare(bench)
        busy = ask(bench, 9000)
        await until(lambda: len(server.doors) == 1)
        models = asyncio.ensure_future(bench.ask("GET"))
        await until(lambda: len(server.doors) == 2)
        server.let_go()
        server.let_go()
        await asyncio.gather(busy, models)

    run(test, server)
