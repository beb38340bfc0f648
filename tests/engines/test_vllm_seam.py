from __future__ import annotations

import pytest

from polyslo.engines.vllm_seam import check_classes, check_policy, check_version
from polyslo.errors import ConfigError


class Scheduler:
    """As much of a scheduler as is looked at."""

    def add_request(self, request):
        """Look at nothing."""

    def update_from_output(self, scheduler_output, model_runner_output):
        """Look at nothing."""

    def get_num_unfinished_requests(self):
        """Look at nothing."""

    def shutdown(self):
        """Look at nothing."""

    def _preempt_request(self, request): ...
    def schedule(self):
        """Read what is set, as vLLM's does."""
        self.current_step += 1
        left = self.max_num_scheduled_tokens
        for request in self.running:
            left -= self.current_step < request.next_decode_eligible_step
        return left, self.waiting


class Request:
    """As much of a request as is looked at."""

    num_tokens = num_tokens_with_spec = num_output_tokens = property(lambda self: 0)

    def __init__(self, request_id, arrival_time, sampling_params):
        self.request_id, self.arrival_time, self.sampling_params = request_id, arrival_time, sampling_params
        self.num_prompt_tokens = self.num_computed_tokens = self.num_output_placeholders = 0
        self.next_decode_eligible_step = 0
        self.is_prefill_chunk = False
        self.kv_transfer_params = self.status = None


def test_tested_versions_pass():
    """A version that was tested is taken, whatever it was built for; another one when asked for."""
    check_version("0.32.0+cpu", False)
    check_version("0.30.0", False)
    check_version("1.0.0", True)


def test_other_versions_are_refused():
    """The error says which version was found and which are known."""
    with pytest.raises(ConfigError, match=r"vLLM 0\.33\.0: .* tested with 0\.30\.0 and 0\.32\.0"):
        check_version("0.33.0", False)


def test_classes_as_they_should_be_pass():
    """All that is read is there."""
    check_classes("0.32.0", Scheduler, Request)


def test_a_schedule_that_reads_its_budget_elsewhere_is_refused():
    """A `schedule()` that does not look at what we set would ignore it silently."""

    class Other(Scheduler):
        def schedule(self):
            """Read less."""
            return self.running, self.waiting, self.max_num_scheduled_tokens, self.current_step

    with pytest.raises(ConfigError, match=r"vLLM 0\.40\.0: Scheduler\.schedule has no next_decode_eligible_step"):
        check_classes("0.40.0", Other, Request)


def test_a_field_that_is_gone_is_named():
    """So is one of a request."""

    class Other(Request):
        def __init__(self):
            self.request_id = ""

    with pytest.raises(ConfigError, match=r"Request has no arrival_time, is_prefill_chunk"):
        check_classes("0.40.0", Scheduler, Other)


def test_another_order_is_refused():
    """Two orders at once can't be kept."""
    check_policy("fcfs")
    with pytest.raises(ConfigError, match="orders by deadline"):
        check_policy("priority")
