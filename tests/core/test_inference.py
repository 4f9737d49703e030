"""What a pool's policy is told of a request, from its prompt to the end of its answer."""

from random import Random

import pytest

from gateway.core.endpoint import Endpoint, Health, Row
from gateway.core.inference import Inference, Informed
from gateway.core.outcome import Outcome
from gateway.core.pick import PROMPTED
from gateway.core.prompt import BLOCK, read_prompt
from gateway.core.work import EngineLoad
from gateway.errors import ClientLeft, GatewayError, UpstreamTruncated

TEXT = b"x" * (4 * BLOCK)
EVENT = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
BILL = b'data: {"choices":[],"usage":{"prompt_tokens":256,"completion_tokens":%d}}\n\ndata: [DONE]\n\n'


class Play:
    """One request under a policy with two endpoints."""

    def __init__(self, policy: str = "llm") -> None:
        row = Row([Health.UP] * 2, [0, 0])
        self.endpoints = [Endpoint(f"http://10.0.0.{i}", i, row) for i in range(2)]
        self.policy = Informed(PROMPTED[policy](self.endpoints))

    def begin(self, now: float = 0.0) -> tuple[Inference, Endpoint]:
        inference = Inference(read_prompt(TEXT))
        endpoint = self.policy.pick(self.endpoints, inference, now, Random(1))
        self.policy.began(inference, endpoint, now)
        return inference, endpoint

    def picture(self) -> list[tuple[int, int]]:
        return [(endpoint.work.pending, endpoint.work.running) for endpoint in self.endpoints]


def ended(status: int = 200, error: GatewayError | None = None) -> Outcome:
    return Outcome(status, error, 1.0, 0.1)


@pytest.mark.parametrize("policy", PROMPTED)
def test_a_prompt_is_pending_until_its_first_token_and_runs_until_its_last(policy: str) -> None:
    play = Play(policy)
    inference, endpoint = play.begin()
    assert sorted(play.picture()) == [(0, 0), (256, 0)]
    inference.begin(is_stream=True)
    inference.pass_on(b"", endpoint, 0.1)  # the head alone
    assert endpoint.work.pending == 256
    inference.pass_on(EVENT, endpoint, 0.5)
    assert (endpoint.work.pending, endpoint.work.running) == (0, 1)
    inference.pass_on(EVENT + BILL % 11, endpoint, 1.5)
    play.policy.ended(inference, endpoint, ended(), 1.5)
    assert play.picture() == [(0, 0), (0, 0)]
    assert endpoint.work.speed.first.mean_y == pytest.approx(0.5)
    assert endpoint.work.speed.each.mean_y == pytest.approx(0.1)  # a second for the ten tokens behind the first


@pytest.mark.parametrize(
    "waiting",
    [
        b": ping\n\n",
        b":\r\n\r\n:\r\n\r\n",
        b'event: ping\ndata: {"type": "ping"}\n\n',
        b'event: message_start\r\ndata: {"type":"message_start"}\r\n\r\nevent: ping\r\ndata: {}\r\n\r\n',
        b'event: response.created\ndata: {}\n\nevent: response.in_progress\ndata: {"response":{}}\n\n',
    ],
)
def test_what_keeps_a_stream_alive_is_no_first_token(waiting: bytes) -> None:
    """Prompts would be taken to be prefilled at once, and their endpoint to be free."""
    play = Play()
    inference, endpoint = play.begin()
    inference.begin(is_stream=True)
    inference.pass_on(waiting, endpoint, 0.001)
    assert (endpoint.work.pending, endpoint.work.running) == (256, 0)
    inference.pass_on(waiting + EVENT, endpoint, 0.5)
    assert (endpoint.work.pending, endpoint.work.running) == (0, 1)


def test_a_stream_of_colons_is_looked_at_once() -> None:
    play = Play()
    inference, endpoint = play.begin()
    inference.begin(is_stream=True)
    inference.pass_on(b":" * 65536 + b"\nx", endpoint, 0.5)
    assert endpoint.work.running == 1


def test_a_stream_without_a_bill_is_measured_by_its_events() -> None:
    play = Play()
    inference, endpoint = play.begin()
    inference.begin(is_stream=True)
    for now in range(1, 6):
        inference.pass_on(EVENT, endpoint, float(now))
    play.policy.ended(inference, endpoint, ended(), 5.0)
    assert endpoint.work.speed.each.mean_y == pytest.approx(1.0)


@pytest.mark.parametrize("bill", [b'"usage":' + b"[" * 4000, b'"usage":{"completion_tokens":%b}' % (b"9" * 400)])
def test_a_bill_that_nobody_can_read_is_none(bill: bytes) -> None:
    """An echo writes what its client likes there."""
    play = Play()
    inference, endpoint = play.begin()
    inference.begin(is_stream=True)
    inference.pass_on(EVENT, endpoint, 0.5)
    inference.pass_on(EVENT + bill, endpoint, 0.7)
    play.policy.ended(inference, endpoint, ended(), 0.7)
    assert play.picture() == [(0, 0), (0, 0)]
    assert endpoint.work.speed.each.mean_y == pytest.approx(0.2)


@pytest.mark.parametrize("error", [ClientLeft(), UpstreamTruncated()])
def test_what_breaks_off_teaches_no_speed_of_tokens_and_leaves_nothing_behind(error: GatewayError) -> None:
    play = Play()
    inference, endpoint = play.begin()
    inference.begin(is_stream=True)
    inference.pass_on(EVENT, endpoint, 0.5)
    play.policy.ended(inference, endpoint, ended(error=error), 1.0)
    assert play.picture() == [(0, 0), (0, 0)]
    assert endpoint.work.speed.each.weight == 0.0


def test_an_error_teaches_nothing() -> None:
    play = Play()
    inference, endpoint = play.begin()
    inference.begin(is_stream=False)
    inference.pass_on(b'{"error":{}}', endpoint, 0.005)
    play.policy.ended(inference, endpoint, ended(500), 0.005)
    assert play.picture() == [(0, 0), (0, 0)]
    assert endpoint.work.speed.first.weight == 0.0


def test_an_answer_in_one_piece_tells_a_speed_only_if_all_of_it_was_prefill() -> None:
    for body, weight in ((b'{"usage":{"prompt_tokens":256,"total_tokens":256}}', 1.0), (BILL % 9, 0.0)):
        play = Play()
        inference, endpoint = play.begin()
        play.policy.first_byte(inference, endpoint, 0.3, 0.3)
        inference.begin(is_stream=False)
        inference.pass_on(body, endpoint, 0.3)
        play.policy.ended(inference, endpoint, ended(), 0.4)
        assert endpoint.work.speed.first.weight == weight
        assert play.picture() == [(0, 0), (0, 0)]


def test_a_prompt_whose_first_token_nobody_sees_is_presumed_to_be_prefilled_in_its_time() -> None:
    play = Play()
    inference = Inference(read_prompt(TEXT), is_streamed=False)
    endpoint = play.policy.pick(play.endpoints, inference, 0.0, Random(1))
    play.policy.began(inference, endpoint, 0.0)
    other = Inference(read_prompt(b"y"))
    play.policy.pick(play.endpoints, other, 0.01, Random(1))
    assert (endpoint.work.pending, endpoint.work.running) == (256, 0)
    play.policy.pick(play.endpoints, other, 1.0, Random(1))
    assert (endpoint.work.pending, endpoint.work.running) == (0, 1)
    inference.begin(is_stream=False)
    inference.pass_on(BILL % 9, endpoint, 2.0)
    play.policy.ended(inference, endpoint, ended(), 2.0)
    assert play.picture() == [(0, 0), (0, 0)]
    # Its end tells how far both of the endpoint's lines were off.
    assert (endpoint.work.speed.first.weight, endpoint.work.speed.each.weight) == (1.0, 1.0)
    assert play.policy.unseen == {}


@pytest.mark.parametrize(
    "answer",
    [
        b'{"generated_text":"%b"}' % (b"a" * 400),  # TGI's, without its details
        b'[{"generated_text": "%b"}]' % (b"a" * 400),
        b'{"content":"%b","tokens_predicted":100,"tokens_evaluated":256}' % (b"a" * 400),  # llama.cpp's
    ],
)
def test_a_text_without_a_bill_is_not_taken_for_all_prefill(answer: bytes) -> None:
    play = Play()
    inference = Inference(read_prompt(TEXT), is_streamed=False)
    endpoint = play.policy.pick(play.endpoints, inference, 0.0, Random(1))
    play.policy.began(inference, endpoint, 0.0)
    play.policy.first_byte(inference, endpoint, 2.0, 2.0)
    inference.begin(is_stream=False)
    inference.pass_on(answer, endpoint, 2.0)
    assert 100 <= inference.generated() <= 110
    play.policy.ended(inference, endpoint, ended(), 2.0)
    assert endpoint.work.speed.each.weight == 1.0
    assert endpoint.work.speed.first.mean_y < 1.0, "most of two seconds was decoding"


def test_an_engine_that_says_it_is_full_is_passed_over_while_that_is_news_and_another_is_there() -> None:
    play = Play()
    full, other = play.endpoints
    full.work.engine = EngineLoad(10.0, waiting=3, running=50, kv_usage=0.97)
    inference = Inference(read_prompt(TEXT))

    def picked(now: float) -> set[Endpoint]:
        return {play.policy.pick(play.endpoints, inference, now, Random(seed)) for seed in range(8)}

    assert picked(11.0) == {other}
    other.work.engine = EngineLoad(10.0, waiting=1, running=50, kv_usage=0.99)
    assert picked(11.0) <= {full, other}  # all are: nobody is refused
    full.work.engine = EngineLoad(10.0, waiting=0, running=50, kv_usage=0.97)
    assert picked(11.0) == {full}  # a full cache that nobody waits for is a busy one, no more
    other.work.engine = full.work.engine = EngineLoad(10.0, waiting=3, running=50, kv_usage=0.97)
    assert picked(99.0) <= {full, other}


def test_two_attempts_at_one_time_are_two_streams_and_the_first_token_is_that_of_whoever_sent_it() -> None:
    play = Play()
    inference, first = play.begin()
    second = next(endpoint for endpoint in play.endpoints if endpoint is not first)
    play.policy.began(inference, second, 0.2)
    assert play.picture() == [(256, 0), (256, 0)]
    inference.begin(is_stream=True)
    inference.pass_on(EVENT, second, 0.5)
    assert (first.work.running, second.work.running) == (0, 1)
    play.policy.ended(inference, first, ended(0, ClientLeft()), 0.6)
    play.policy.ended(inference, second, ended(), 0.9)
    assert play.picture() == [(0, 0), (0, 0)]


def test_two_attempts_at_one_endpoint_leave_nothing_behind() -> None:
    play = Play()
    inference, endpoint = play.begin()
    play.policy.began(inference, endpoint, 0.1)
    assert endpoint.work.pending <= 256
    play.policy.ended(inference, endpoint, ended(0, ClientLeft()), 0.2)
    play.policy.ended(inference, endpoint, ended(), 0.3)
    assert play.picture() == [(0, 0), (0, 0)]


def test_what_has_no_prompt_is_picked_for_and_followed_without_one() -> None:
    play = Play()
    for request in (None, b""):
        endpoint = play.policy.pick(play.endpoints, request, 0.0, Random(1))
        play.policy.began(request, endpoint, 0.0)
        play.policy.first_byte(request, endpoint, 0.1, 0.1)
        play.policy.ended(request, endpoint, ended(), 0.2)
    assert play.picture() == [(0, 0), (0, 0)]
