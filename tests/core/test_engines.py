"""What engines say of themselves, in each one's words."""

import pytest

from gateway.core.engines import Reading, read_engine

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="meta-llama/Llama-3.1-8B"} 12.0
vllm:num_requests_running{engine="1",model_name="meta-llama/Llama-3.1-8B"} 8.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="meta-llama/Llama-3.1-8B"} 3.0
vllm:num_requests_waiting{engine="1",model_name="meta-llama/Llama-3.1-8B"} 0.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="meta-llama/Llama-3.1-8B"} 0.5
vllm:kv_cache_usage_perc{engine="1",model_name="meta-llama/Llama-3.1-8B"} 0.25
vllm:num_requests_waiting_by_reason{reason="capacity"} 77.0
vllm:cache_config_info{block_size="16",cache_dtype="auto",engine="0",num_gpu_blocks="26000",num_cpu_blocks="None"} 1.0
vllm:cache_config_info{block_size="16",cache_dtype="auto",engine="1",num_gpu_blocks="24000",num_cpu_blocks="None"} 1.0
"""
SGLANG = """\
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{model_name="m"} 162.0
sglang:num_used_tokens{model_name="m"} 123859.0
sglang:max_total_num_tokens{model_name="m"} 442353.0
sglang:token_usage{model_name="m"} 0.28
sglang:num_queue_reqs{model_name="m"} 2826.0
"""
TGI = "# TYPE tgi_queue_size gauge\ntgi_queue_size 4\ntgi_batch_current_size 9\n"
TRT = """\
nv_inference_pending_request_count{model="ensemble",version="1"} 5
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="waiting",version="1"} 2
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="active",version="1"} 7
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",model="tensorrt_llm",version="1"} 0.4
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max",model="tensorrt_llm",version="1"} 4239
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="tokens_per",model="tensorrt_llm",version="1"} 64
"""
TRITON = 'nv_inference_pending_request_count{model="a"} 5\nnv_inference_pending_request_count{model="b"} 1\n'
LLAMA = "llamacpp:requests_processing 1\nllamacpp:requests_deferred 6\nllamacpp:kv_cache_usage_ratio 0.125\n"


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        (VLLM, Reading(3, 20, 0.375, 800_000)),
        (VLLM.replace("kv_cache_usage", "gpu_cache_usage"), Reading(3, 20, 0.375, 800_000)),
        (VLLM.replace('"26000"', '"None"').replace('"24000"', '"None"'), Reading(3, 20, 0.375)),
        (SGLANG, Reading(2826, 162, 0.28, 442_353)),
        (TGI, Reading(4, 9, 0.0)),
        (TRT, Reading(2, 7, 0.4, 4239 * 64)),
        (TRITON, Reading(6, 0, 0.0)),
        (LLAMA, Reading(6, 1, 0.125)),
    ],
    ids=["vllm", "vllm before 0.9", "vllm at first", "sglang", "tgi", "trt-llm", "triton", "llama.cpp"],
)
def test_every_engine_is_understood(text: str, reading: Reading) -> None:
    assert read_engine(text) == reading
    assert read_engine(text.replace("\n", "\r\n")) == reading


@pytest.mark.parametrize(
    "text", ["", "<html>", "process_cpu_seconds_total 1\n", "vllm:num_requests_waiting NaN\n", "tgi_queue_size\n"]
)
def test_what_says_nothing_of_a_load_is_nothing(text: str) -> None:
    assert read_engine(text) is None


def test_labels_may_hold_braces_quotes_and_what_looks_like_a_sample() -> None:
    text = 'tgi_queue_size{a="} 9",b="\\"} 8"} 4 1395066363000\n'
    assert read_engine(text) == Reading(4, 0, 0.0)


def test_a_number_beyond_reason_is_held_in_bounds() -> None:
    assert read_engine("tgi_queue_size 1e300\nllamacpp:requests_deferred -1\n") == Reading(2**31 - 1, 0, 0.0)
    assert read_engine(VLLM.replace("0.5\n", "9.5\n")) == Reading(3, 20, 1.0, 800_000)
