"""Benchmark clients before the gateway, each as the program that it is: all they send is answered, all is counted."""

from __future__ import annotations

import json

import pytest
from bench_clients import HANG_S, needs, output_of, url_of
from environments import GUIDELLM, INFERENCE_PERF, VLLM
from gateway_bench import MODEL, Bench, run
from tokenizer_folder import write_tokenizer

pytestmark = pytest.mark.slow

NUM_REQUESTS = 12
OUTPUT_TOKENS = 16
CLASSES = {"chat": {"ttft_ms": 3_600_000, "tpot_ms": 50}, "slow": {"ttft_ms": 3_600_000, "tpot_ms": 200}}


def watched(environment, program, arguments, tmp_path):
    """Run a client with `arguments(url)`; return totals, tokens passed on, and how many requests each tier had."""

    async def main():
        async with Bench(2, classes=CLASSES, slo={"default": "slow"}) as bench:
            await output_of(environment, program, *arguments(url_of(bench)), folder=tmp_path)
            await bench.settle()
            board = bench.gateway.boards[MODEL]
            tiers = [tier["num_requests_1m"] for tier in bench.gateway.snapshot(MODEL)["tiers"]]
            return board.totals, board.num_tokens, tiers

    return run(main, hang_s=HANG_S)


@needs(INFERENCE_PERF)
@pytest.mark.parametrize(("api", "data"), [("completion", "random"), ("chat", "shared_prefix")])
def test_inference_perf_sends_its_slos_and_reports_goodput(tmp_path, api, data):
    """Its SLO headers choose the tier; every request succeeds, gets the tokens asked for, and counts as good."""
    sizes = {"min": OUTPUT_TOKENS, "max": OUTPUT_TOKENS, "mean": OUTPUT_TOKENS, "std_dev": 0}
    prefix = {"num_groups": 1, "num_prompts_per_group": NUM_REQUESTS, "system_prompt_len": OUTPUT_TOKENS,
              "question_len": OUTPUT_TOKENS, "output_len": OUTPUT_TOKENS}  # fmt: skip
    lengths = {"input_distribution": sizes, "output_distribution": sizes}
    slo = {"x-slo-ttft-ms": "3600000", "x-slo-tpot-ms": "50"}

    def arguments(url):
        config = {
            "api": {"type": api, "streaming": True, "headers": slo},
            "server": {"type": "vllm", "model_name": MODEL, "base_url": url, "ignore_eos": True},
            "tokenizer": {"pretrained_model_name_or_path": str(write_tokenizer(tmp_path / "tokenizer"))},
            "data": {"type": data, **(lengths if data == "random" else {"shared_prefix": prefix})},
            "load": {"type": "constant", "stages": [{"rate": NUM_REQUESTS, "duration": 1}], "num_workers": 1},
            "report": {"request_lifecycle": {"summary": True, "use_server_output_tokens": True}},
            "storage": {"local_storage": {"path": str(tmp_path / "reports")}},
        }
        path = tmp_path / "config.yaml"
        path.write_text(json.dumps(config))  # YAML holds JSON
        return "--config_file", path

    totals, num_tokens, tiers = watched(INFERENCE_PERF, "inference-perf", arguments, tmp_path)
    report = json.loads((tmp_path / "reports" / "summary_lifecycle_metrics.json").read_text())
    assert (report["successes"]["count"], report["failures"]["count"]) == (NUM_REQUESTS, 0)
    assert report["successes"]["goodput_metrics"]["goodput_percentage"] == 100.0
    assert (totals["attained"], num_tokens) == (NUM_REQUESTS, NUM_REQUESTS * OUTPUT_TOKENS)
    assert tiers == [NUM_REQUESTS, 0]


@needs(GUIDELLM)
def test_guidellm_counts_what_the_gateway_counts(tmp_path):
    """Every request is complete, with the tokens that the gateway passed on."""

    def arguments(url):
        tokenizer = write_tokenizer(tmp_path / "tokenizer")
        return (
            "run", "--backend", f"kind=openai_http,target={url},model={MODEL}", "--profile", "kind=constant,rate=20",
            "--constraint", f"kind=max_requests,count={NUM_REQUESTS}", "--tokenizer", f"kind=hf_auto,model={tokenizer}",
            "--data", f"kind=synthetic_text,prompt_tokens=64,output_tokens={OUTPUT_TOKENS}",
            "--output", f"kind=json,path={tmp_path / 'report.json'}", "--disable-console-interactive",
        )  # fmt: skip

    totals, num_tokens, _ = watched(GUIDELLM, "guidellm", arguments, tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    counts = report["benchmarks"][0]["metrics"]["request_totals"]
    assert (counts["successful"], counts["errored"]) == (NUM_REQUESTS, 0)
    assert totals["attained"] >= NUM_REQUESTS  # it asks whether the model is there before it begins
    assert num_tokens >= NUM_REQUESTS * OUTPUT_TOKENS


@needs(VLLM)
@pytest.mark.parametrize("backend", ["openai", "openai-chat"])
def test_vllms_own_benchmark_is_served(tmp_path, backend):
    """`vllm bench serve` gets every token that it asked for, within the goodput that it was told; its header counts."""
    path = "/v1/completions" if backend == "openai" else "/v1/chat/completions"
    result = tmp_path / "result.json"

    def arguments(url):
        return (
            "bench", "serve", "--backend", backend, "--base-url", url, "--endpoint", path, "--model", MODEL,
            "--tokenizer", write_tokenizer(tmp_path / "tokenizer"), "--dataset-name", "random",
            "--random-input-len", 64, "--random-output-len", OUTPUT_TOKENS, "--num-prompts", NUM_REQUESTS,
            "--request-rate", 20, "--ignore-eos", "--goodput", "ttft:3600000", "tpot:3600000",
            "--header", "x-llm-d-slo-tpot-ms=50", "--disable-tqdm", "--save-result", "--result-filename", result,
        )  # fmt: skip

    totals, _, tiers = watched(VLLM, "vllm", arguments, tmp_path)
    report = json.loads(result.read_text())
    assert (report["completed"], report["failed"]) == (NUM_REQUESTS, 0)
    assert report["total_output_tokens"] == NUM_REQUESTS * OUTPUT_TOKENS
    assert report["request_goodput"] == pytest.approx(report["request_throughput"])
    assert tiers == [totals["attained"], 0]
    assert totals["attained"] >= NUM_REQUESTS  # and a trial before them
