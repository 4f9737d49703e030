"""OpenAI's own client, unchanged, through the gateway's HTTPS port to two versions of a model."""

import asyncio
import time
from collections.abc import Iterator

import httpx2
import openai
import pytest

from tests.e2e.harness import DemoModel, Gateway, served
from tests.e2e.harness_upstream import RawUpstream, answering, refused_port

USER: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "one two"}]
SAID = "here. You said: one two"
DELAY = 0.05  # seconds before every streamed chunk of v2


@pytest.fixture(scope="module")
def whisper() -> Iterator[RawUpstream]:
    with RawUpstream(answering(b'{"text":"so it was said"}', fields=[("content-type", "application/json")])) as whisper:
        yield whisper


@pytest.fixture(scope="module")
def gateway(whisper: RawUpstream) -> Iterator[Gateway]:
    with (
        DemoModel("demo", "v1") as one,
        DemoModel("demo", "v2", delay=DELAY) as two,
        refused_port() as nowhere,
        Gateway(
            {
                "demo": {
                    "aliases": ["gpt-4o-mini"],
                    "default_version": "v1",
                    "versions": {"v1": {"endpoints": [one.url]}, "v2": {"endpoints": [two.url]}},
                },
                "scarce": {
                    "limits": [{"rate": "2/hour", "per": "key"}],
                    "versions": {"v1": {"endpoints": [one.url], "served_as": {"model": "demo"}}},
                },
                "whisper": {
                    "aliases": ["whisper-1"],
                    "versions": {"v3": {"endpoints": [whisper.url], "served_as": {"model": "large-v3"}}},
                },
                "gone": served([f"http://127.0.0.1:{nowhere}"]),
            }
        ) as gateway,
    ):
        yield gateway


def client_of(gateway: Gateway, key: str | None = None) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{gateway.base_url}/v1",
        api_key=key or gateway.key,
        max_retries=0,
        http_client=httpx2.Client(verify=gateway.context),
    )


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with client_of(gateway) as client:
        yield client


def test_a_chat_is_answered_by_the_default_version(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="demo", messages=USER)
    assert answer.choices[0].message.content == f"demo@v1 {SAID}"
    assert answer.system_fingerprint == "demo@v1"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 6


@pytest.mark.parametrize(
    ("model", "headers", "server"),
    [
        ("demo@v2", {}, "demo@v2"),
        ("gpt-4o-mini", {}, "demo@v1"),
        ("gpt-4o-mini@v2", {}, "demo@v2"),
        ("demo", {"x-model-version": "v2"}, "demo@v2"),
        ("whatever", {"x-model": "demo", "x-model-version": "v2"}, "demo@v2"),
    ],
)
def test_a_version_an_alias_or_a_header_decides_who_answers(
    client: openai.OpenAI, model: str, headers: dict[str, str], server: str
) -> None:
    answer = client.chat.completions.create(model=model, messages=USER, extra_headers=headers)
    assert answer.system_fingerprint == server


def test_a_streamed_chat_arrives_piece_by_piece_as_it_is_generated(client: openai.OpenAI) -> None:
    options: openai.types.chat.ChatCompletionStreamOptionsParam = {"include_usage": True}
    text, arrivals, usage = "", [], None
    stream = client.chat.completions.create(model="demo@v2", messages=USER, stream=True, stream_options=options)
    for chunk in stream:
        arrivals.append(time.monotonic())
        usage = chunk.usage or usage
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
    assert text == f"demo@v2 {SAID}"
    assert usage is not None
    assert usage.completion_tokens == 6
    assert arrivals[-1] - arrivals[0] > DELAY * (len(arrivals) - 1) / 2  # gathered first, they would come at once


def test_a_stream_that_the_client_leaves_early_leaves_the_gateway_well(client: openai.OpenAI) -> None:
    with client.chat.completions.create(model="demo@v2", messages=USER, stream=True) as stream:
        next(iter(stream))
    assert client.chat.completions.create(model="demo@v2", messages=USER).system_fingerprint == "demo@v2"


def test_the_clients_own_accumulator_understands_the_stream(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="demo", messages=USER) as stream:
        message = stream.get_final_completion().choices[0].message
    assert (message.role, message.content) == ("assistant", f"demo@v1 {SAID}")


def test_a_text_completion_is_answered_whole_and_streamed(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="demo", prompt="a b").choices[0].text
    pieces = [c.choices[0].text for c in client.completions.create(model="demo", prompt="a b", stream=True)]
    assert whole == "".join(pieces) == "demo@v1 continues: a b"
    assert len(pieces) > 3


def test_embeddings_come_back_as_numbers(client: openai.OpenAI) -> None:
    first, second = client.embeddings.create(model="demo", input=["a", "b"], dimensions=16).data
    assert len(first.embedding) == len(second.embedding) == 16
    assert first.embedding != second.embedding


def test_the_list_of_models_has_those_that_the_key_may_call(gateway: Gateway, client: openai.OpenAI) -> None:
    assert {"demo", "scarce", "gone"} <= {model.id for model in client.models.list()}


def test_an_unknown_key_is_an_authentication_error(gateway: Gateway) -> None:
    with client_of(gateway, key="gw_nobody_at_all") as stranger, pytest.raises(openai.AuthenticationError) as caught:
        stranger.chat.completions.create(model="demo", messages=USER)
    assert caught.value.status_code == 401
    assert caught.value.code == "invalid_credentials"
    assert caught.value.response.headers["www-authenticate"]


def test_a_key_for_one_model_may_call_and_list_that_model_alone(gateway: Gateway) -> None:
    with client_of(gateway, key=gateway.create_key("bob", "demo@v1")) as bob:
        assert bob.chat.completions.create(model="demo@v1", messages=USER).system_fingerprint == "demo@v1"
        assert [model.id for model in bob.models.list()] == ["demo"]
        for model in ("demo@v2", "gone"):
            with pytest.raises(openai.PermissionDeniedError) as caught:
                bob.chat.completions.create(model=model, messages=USER)
            assert caught.value.code == "forbidden"


@pytest.mark.parametrize(
    ("model", "code"), [("nobody", "model_not_found"), ("demo@v9", "version_not_found"), ("", "bad_request")]
)
def test_an_unknown_model_or_version_is_a_not_found_error(client: openai.OpenAI, model: str, code: str) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model=model, messages=USER)
    expected = openai.BadRequestError if code == "bad_request" else openai.NotFoundError
    assert (type(caught.value), caught.value.code) == (expected, code)
    assert caught.value.request_id


def test_a_used_up_limit_is_a_rate_limit_error_that_says_when_to_come_back(client: openai.OpenAI) -> None:
    for _ in range(2):
        assert client.chat.completions.create(model="scarce", messages=USER).system_fingerprint == "demo@v1"
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model="scarce", messages=USER)
    assert caught.value.code == "rate_limit_exceeded"
    # Half an hour fills one token of two an hour; up to a tenth is added, so that the refused do not return together.
    assert 1700 < int(caught.value.response.headers["retry-after"]) <= 1980


def test_a_model_whose_server_is_down_is_a_server_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="gone", messages=USER)
    assert caught.value.status_code in (502, 503)


def test_a_bad_request_is_explained_by_the_model_server_itself(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="messages: at least one is needed"):
        client.chat.completions.create(model="demo", messages=[])


def test_forty_asynchronous_chats_at_once_streamed_and_whole(gateway: Gateway) -> None:
    async def whole(client: openai.AsyncOpenAI, number: int) -> str | None:
        messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": f"number {number}"}]
        return (await client.chat.completions.create(model="demo", messages=messages)).choices[0].message.content

    async def streamed(client: openai.AsyncOpenAI, number: int) -> str:
        messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": f"number {number}"}]
        stream = await client.chat.completions.create(model="demo@v2", messages=messages, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def run() -> list[str | None]:
        async with openai.AsyncOpenAI(
            base_url=f"{gateway.base_url}/v1",
            api_key=gateway.key,
            max_retries=0,
            http_client=httpx2.AsyncClient(verify=gateway.context),
        ) as client:
            assert [model.id async for model in client.models.list()]
            return await asyncio.gather(*((streamed if n % 2 else whole)(client, n) for n in range(40)))

    assert asyncio.run(run()) == [f"demo@v{1 + n % 2} here. You said: number {n}" for n in range(40)]


@pytest.mark.parametrize("base", ["/v1", "/models/whisper/v1"])
@pytest.mark.parametrize("model", ["whisper", "whisper-1@v3"])
def test_a_sound_reaches_the_model_that_its_form_names(
    gateway: Gateway, client: openai.OpenAI, whisper: RawUpstream, model: str, base: str
) -> None:
    client = client.with_options(base_url=f"{gateway.base_url}{base}")
    sound = b"RIFF" + bytes(range(256)) * 1000
    answer = client.audio.transcriptions.create(model=model, file=("a.wav", sound), language="en")
    assert answer.text == "so it was said"
    form = whisper.requests[-1].body
    assert sound in form
    assert b'name="model"\r\n\r\nlarge-v3\r\n' in form


def test_a_form_for_a_model_that_the_key_may_not_call_is_refused(gateway: Gateway) -> None:
    with client_of(gateway, key=gateway.create_key("carol", "demo")) as carol:
        with pytest.raises(openai.PermissionDeniedError):
            carol.audio.transcriptions.create(model="whisper", file=("a.wav", b"RIFF"))
        with pytest.raises(openai.NotFoundError):
            carol.audio.transcriptions.create(model="nobody", file=("a.wav", b"RIFF"))
