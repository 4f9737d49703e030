"""The stand-in engine: arithmetic that anybody can do by hand, and what a scraper and a client see of it."""

import asyncio
import itertools
import json

import httpx2
import pytest

from gateway.demo.app import build
from gateway.demo.engine import BLOCK, CHUNK, PROFILES, Engine, Job, Profile
from gateway.demo.openai import CompletionRequest
from gateway.demo.serving import Serving, measure
from gateway.demo.wire import Demo

H100 = PROFILES["h100"]


_numbers = itertools.count()


def job(prompt: int, output: int, *, text: str = "", shared: int = 0) -> Job:
    """`shared` tokens at the front of the prompt are those of every job with this `text`; the others are its own."""
    own = next(_numbers)
    blocks = [hash((text, i)) if i < shared // BLOCK else hash((own, text, i)) for i in range(prompt // BLOCK)]
    return Job(prompt, output, blocks, lambda job: None)


def run(engine: Engine) -> float:
    """Until nothing is left to do -> the seconds it took."""
    total = 0.0
    while seconds := engine.begin():
        total += seconds
        engine.end()
    return total


def test_one_request_takes_what_the_arithmetic_says() -> None:
    engine = Engine(H100)
    engine.add(job(1000, 3))
    first = 7e-3 + 1000 * 36e-6  # its prefill, and with it the first token
    second = 7e-3 + 4e-6 + 1001 * 70e-9
    third = 7e-3 + 4e-6 + 1002 * 70e-9
    assert run(engine) == pytest.approx(first + second + third)


def test_a_long_prompt_is_prefilled_in_chunks_between_which_others_decode() -> None:
    engine = Engine(H100)
    told: list[str] = []
    short, long = job(10, 5), job(2 * CHUNK, 1)
    short.on_token = lambda job: told.append("short")
    long.on_token = lambda job: told.append("long")
    engine.add(short)
    engine.begin()
    engine.end()
    engine.add(long)
    run(engine)
    assert told == ["short", "short", "short", "long", "short", "short"]


def test_a_prefix_that_was_prefilled_once_is_not_prefilled_again() -> None:
    engine = Engine(H100)
    engine.add(job(1024, 1, text="system", shared=960))
    run(engine)
    engine.add(job(1025, 1, text="system", shared=960))
    assert run(engine) == pytest.approx(7e-3 + 65 * 36e-6 + 960 * 70e-9)
    assert (engine.prefix_queries, engine.prefix_hits) == (2049, 960)


def test_what_runs_pushes_out_the_prefix_that_was_longest_unused() -> None:
    engine = Engine(H100._replace(kv=20 * BLOCK))
    for text in ("a", "b", "a", "c"):
        engine.add(job(8 * BLOCK + 1, 1, text=text, shared=8 * BLOCK))
        run(engine)
    hits = engine.prefix_hits
    assert hits == 8 * BLOCK  # the second "a"
    engine.add(job(8 * BLOCK + 1, 1, text="a", shared=8 * BLOCK))
    run(engine)
    assert engine.prefix_hits == 2 * hits
    engine.add(job(8 * BLOCK + 1, 1, text="b", shared=8 * BLOCK))
    run(engine)
    assert engine.prefix_hits < 3 * hits


def test_who_finds_no_room_in_the_cache_waits_and_is_served_in_the_order_of_arrival() -> None:
    engine = Engine(H100._replace(kv=1500))
    jobs = [job(1000, 4), job(900, 1), job(10, 1)]
    done: list[Job] = []
    for each in jobs:
        each.on_token = lambda job: done.append(job) if job.is_done else None
        engine.add(each)
    engine.begin()
    assert (len(engine.running), len(engine.waiting)) == (1, 2)
    engine.end()
    run(engine)
    assert done == jobs


def test_a_full_cache_makes_the_youngest_begin_anew_and_all_get_every_token() -> None:
    engine = Engine(H100._replace(kv=500))
    jobs = [job(200, 100), job(200, 100)]
    for each in jobs:
        engine.add(each)
    run(engine)
    assert engine.preempted > 0
    assert [each.generated for each in jobs] == [100, 100]
    assert engine.held == 0


def test_a_client_that_leaves_frees_what_it_held_whether_it_runs_or_waits() -> None:
    engine = Engine(H100._replace(kv=1500))
    jobs = [job(1000, 50), job(900, 50)]
    for each in jobs:
        engine.add(each)
    engine.begin()
    engine.end()
    for each in jobs:
        engine.remove(each)
    assert (engine.held, engine.running, list(engine.waiting), engine.begin()) == (0, [], [], 0.0)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_nothing_is_lost_whatever_comes_and_goes(profile: Profile) -> None:
    engine = Engine(profile._replace(kv=4000))
    jobs = [job(100 + 37 * i % 900, 1 + i % 40, text=str(i % 3), shared=128) for i in range(60)]
    for index, each in enumerate(jobs):
        engine.add(each)
        if engine.begin():
            engine.end()
        if index % 7 == 6:
            engine.remove(jobs[index - 3])
    run(engine)
    assert all(each.is_done for index, each in enumerate(jobs) if index % 7 != 3 or index == 59)
    assert engine.held == 0
    assert len(engine.kept) * BLOCK <= 4000


def test_equal_beginnings_of_prompts_have_equal_blocks_and_tokens_are_counted_as_they_come() -> None:
    text = "x" * (BLOCK * 4) + "tail"
    tokens, blocks = measure(CompletionRequest(model="demo", prompt=text))
    assert (tokens, len(blocks)) == (BLOCK + 1, 1)
    assert measure(CompletionRequest(model="demo", prompt=[text, "more"]))[1][:1] == blocks
    tokens, blocks = measure(CompletionRequest(model="demo", prompt=list(range(2 * BLOCK + 5))))
    assert (tokens, len(blocks)) == (2 * BLOCK + 5, 2)


def ask(path: str, body: object = None, *, is_failing: bool = False) -> httpx2.Response:
    async def call() -> httpx2.Response:
        serving = Serving(Demo("demo", "v1"), H100, speed=20, interval=4)
        serving.is_failing = is_failing
        transport = httpx2.ASGITransport(build(serving.demo, serving), raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://demo") as client:
            if body is None:
                return await client.get(path)
            return await client.post(path, json=body)

    return asyncio.run(call())


CHAT = {"model": "demo", "messages": [{"role": "user", "content": "x" * 79}], "max_tokens": 10}


def test_a_stream_has_its_first_token_alone_then_as_many_as_the_interval_says_and_its_bill_last() -> None:
    answer = ask("/v1/chat/completions", CHAT | {"stream": True, "stream_options": {"include_usage": True}})
    *events, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    texts = [chunk["choices"][0]["delta"]["content"] for chunk in chunks if chunk["choices"]]
    assert texts == [" tok", " tok" * 4, " tok" * 4, " tok"]
    assert chunks[-1]["usage"] == {"prompt_tokens": 22, "completion_tokens": 10, "total_tokens": 32}
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_an_answer_in_one_piece_has_as_many_tokens_as_were_asked_for(path: str) -> None:
    answer = ask(path, CHAT | {"prompt": "hello"}).json()
    assert answer["usage"]["completion_tokens"] == 10
    assert answer["choices"][0]["finish_reason"] == "length"


def test_a_broken_engine_answers_500_and_a_bad_request_is_refused() -> None:
    assert ask("/v1/chat/completions", CHAT, is_failing=True).status_code == 500
    assert ask("/v1/chat/completions", CHAT | {"messages": []}).status_code == 400
    assert ask("/v1/chat/completions", CHAT | {"model": "other"}).status_code == 404


def test_it_tells_its_load_as_vllm_does() -> None:
    text = ask("/metrics").text
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
        assert f'vllm:{name}{{model_name="demo"}} 0\n' in text
    assert ask("/health").status_code == 200
