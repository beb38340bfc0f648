"""What the plug-in relies on in vLLM, checked at start: vLLM calls its scheduler's interface not public.

Read by `polyslo.engines.vllm` in vllm/v1/core/sched/scheduler.py and vllm/v1/request.py of the versions named here.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from polyslo.errors import ConfigError

TESTED = ("0.30.0", "0.32.0")

# `schedule()` reads the budget once, walks `running` in order and skips whoever is not eligible yet, then `waiting`.
_SCHEDULE = ("max_num_scheduled_tokens", "running", "waiting", "current_step", "next_decode_eligible_step")
_REQUEST = (
    "request_id", "arrival_time", "sampling_params", "num_prompt_tokens", "num_computed_tokens",
    "num_output_placeholders", "next_decode_eligible_step", "is_prefill_chunk", "kv_transfer_params", "status",
)  # fmt: skip
_REQUEST_PROPERTIES = ("num_tokens", "num_tokens_with_spec", "num_output_tokens")
_SCHEDULER = (
    "requests", "running", "waiting", "max_num_scheduled_tokens", "max_num_running_reqs", "current_step",
    "connector", "kv_cache_manager", "scheduler_config", "prev_step_scheduled_req_ids",
)  # fmt: skip
_METHODS = (
    "add_request", "schedule", "update_from_output", "get_num_unfinished_requests", "shutdown", "_preempt_request",
)  # fmt: skip


def check_version(version: str, accepts_untested: bool) -> None:
    """Raise `ConfigError` for a version of vLLM that this was not tested with."""
    if version.split("+")[0] not in TESTED and not accepts_untested:
        raise ConfigError(
            f"vLLM {version}: polyslo's scheduler was tested with {' and '.join(TESTED)}; install one of these, or set "
            "untested_vllm to true under polyslo in --additional-config to try"
        )


def check_classes(version: str, scheduler: type, request: type) -> None:
    """Raise `ConfigError` when vLLM's classes lack something that the plug-in reads or sets."""
    _require(version, "Scheduler", _METHODS, dir(scheduler))
    _require(version, "Scheduler.schedule", _SCHEDULE, _names(scheduler.schedule))  # type: ignore[attr-defined]
    _require(version, "Request", _REQUEST, _names(request.__init__))  # type: ignore[misc]
    _require(version, "Request", _REQUEST_PROPERTIES, dir(request))
    parameters = list(inspect.signature(scheduler.update_from_output).parameters)  # type: ignore[attr-defined]
    _require(version, "Scheduler.update_from_output", ("scheduler_output", "model_runner_output"), parameters)


def check_scheduler(version: str, scheduler: Any) -> None:
    """Raise `ConfigError` when a scheduler that was made lacks a field, or is set up in a way that is not supported."""
    _require(version, "Scheduler", _SCHEDULER, vars(scheduler))
    _require(version, "Scheduler.waiting", ("clear", "extend"), dir(scheduler.waiting))
    _require(version, "KVCacheManager", ("get_computed_blocks",), dir(scheduler.kv_cache_manager))


def check_policy(policy: str) -> None:
    """Raise `ConfigError` for a `--scheduling-policy` that orders requests by something else."""
    if policy != "fcfs":
        raise ConfigError(f"--scheduling-policy {policy}: polyslo's scheduler orders by deadline; leave it at fcfs")


def _names(function: Any) -> tuple[str, ...]:
    code = function.__code__
    return (*code.co_names, *code.co_varnames)


def _require(version: str, where: str, names: Iterable[str], found: Iterable[str]) -> None:
    missing = sorted(set(names) - set(found))
    if missing:
        raise ConfigError(
            f"vLLM {version}: {where} has no {', '.join(missing)}; polyslo's scheduler needs vLLM {' or '.join(TESTED)}"
        )
