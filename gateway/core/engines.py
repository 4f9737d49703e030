"""What an inference engine says of its load, read from its metrics (Prometheus text exposition).

An engine knows what no gateway sees: requests that came to it by other ways, and how full its cache is.
"""

import re
from collections.abc import Sequence
from math import isfinite, prod
from typing import Final, NamedTuple


class Reading(NamedTuple):
    """At one instant."""

    waiting: int  # requests that it has not begun
    running: int
    kv_usage: float  # the share of its cache that is in use, 0 to 1; 0 where it does not say
    cache: int = 0  # tokens that its cache holds; 0 where it does not say


class _Dialect(NamedTuple):
    """What an engine calls them; a selector is a name, and a label's value where several things have that name."""

    waiting: str
    running: str
    usage: Sequence[str] = ()  # the first that is there
    cache: Sequence[str] = ()  # factors of the cache's size; one with " @label" is that label's number


DIALECTS: Final = {
    "vllm": _Dialect(
        "vllm:num_requests_waiting",
        "vllm:num_requests_running",
        ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),  # since 0.9, before
        ("vllm:cache_config_info @num_gpu_blocks", "vllm:cache_config_info @block_size"),
    ),
    "sglang": _Dialect(
        "sglang:num_queue_reqs", "sglang:num_running_reqs", ("sglang:token_usage",), ("sglang:max_total_num_tokens",)
    ),
    "tgi": _Dialect("tgi_queue_size", "tgi_batch_current_size"),
    "llama.cpp": _Dialect(
        "llamacpp:requests_deferred", "llamacpp:requests_processing", ("llamacpp:kv_cache_usage_ratio",)
    ),
    "trt-llm": _Dialect(  # Triton's backend
        'nv_trt_llm_request_metrics request_type="waiting"',
        'nv_trt_llm_request_metrics request_type="active"',
        ('nv_trt_llm_kv_cache_block_metrics kv_cache_block_type="fraction"',),
        (
            'nv_trt_llm_kv_cache_block_metrics kv_cache_block_type="max"',
            'nv_trt_llm_kv_cache_block_metrics kv_cache_block_type="tokens_per"',
        ),
    ),
    # Any other backend of Triton's: what its scheduler holds back. It does not say what runs.
    "triton": _Dialect("nv_inference_pending_request_count", ""),
}

_NAMES: Final = sorted(
    {
        selector.partition(" ")[0]
        for dialect in DIALECTS.values()
        for selector in (dialect.waiting, dialect.running, *dialect.usage, *dialect.cache)
        if selector
    }
)
# A label's value may hold an escaped quote, or a brace.
_SAMPLE: Final = re.compile(
    "^(" + "|".join(map(re.escape, _NAMES)) + r')(?:\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\})?[ \t]+(\S+)', re.MULTILINE
)


def read_engine(text: str) -> Reading | None:
    """None if no engine that we know speaks like this. Counts of several models or ranks are added up, shares of caches
    averaged."""
    samples: dict[str, list[tuple[str, float]]] = {}
    for name, labels, value in _SAMPLE.findall(text):
        try:
            number = float(value)
        except ValueError:
            continue
        if isfinite(number) and number >= 0.0:
            samples.setdefault(name, []).append((labels, number))
    for dialect in DIALECTS.values():
        waiting = _select(samples, dialect.waiting)
        if waiting:
            running = _select(samples, dialect.running)
            usage: Sequence[float] = next((found for each in dialect.usage if (found := _select(samples, each))), ())
            share = min(sum(usage) / len(usage), 1.0) if usage else 0.0
            return Reading(_count(waiting), _count(running), share, _cache(samples, dialect.cache))
    return None


def _select(samples: dict[str, list[tuple[str, float]]], selector: str) -> list[float]:
    name, _, label = selector.partition(" ")
    return [value for labels, value in samples.get(name, ()) if label in labels]


def _cache(samples: dict[str, list[tuple[str, float]]], factors: Sequence[str]) -> int:
    """The first factor (blocks, or tokens) of all ranks together, the other one (tokens of a block) on average; 0 if
    one is missing."""
    found = []
    for factor in factors:
        selector, _, label = factor.partition(" @")
        found.append(_numbers(samples.get(selector, ()), label) if label else _select(samples, selector))
    if not found or not all(found):
        return 0
    return int(min(sum(found[0]) * prod([sum(each) / len(each) for each in found[1:]]), 2**31 - 1))


def _numbers(samples: Sequence[tuple[str, float]], label: str) -> list[float]:
    """What an info metric says in this label: numbers only, for vLLM says None until it knows."""
    found = [re.search(rf'(?:^|,)\s*{label}="(\d+)"', labels) for labels, _ in samples]
    return [float(each[1]) for each in found if each is not None]


def _count(values: Sequence[float]) -> int:
    return int(min(sum(values), 2**31 - 1))
