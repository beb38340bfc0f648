"""Tests of the gateway that hold whoever carries the bytes: itself, carriers of its own, or Envoy."""

from __future__ import annotations

import test_gateway_faults as faults
import test_gateway_sockets as sockets

WHOEVER_CARRIES = (
    sockets.test_an_answer_is_the_engines_own_to_the_byte,
    sockets.test_many_at_once_all_end_and_leave_nothing_behind,
    sockets.test_an_slo_too_tight_is_clamped_and_told,
    sockets.test_keys_open_the_gateway_and_are_not_passed_on,
    sockets.test_what_is_not_there_is_told,
    sockets.test_a_prompt_that_no_instance_holds_is_refused_at_the_door,
    sockets.test_what_an_engine_finds_wrong_is_passed_on_and_nobodys_miss,
    sockets.test_other_routes_are_passed_on_to_an_instance,
    sockets.test_several_models_are_listed_together,
    sockets.test_receipts_say_what_was_decided,
    sockets.test_the_slo_reaches_engines_that_read_it,
    sockets.test_a_full_fleet_refuses_with_429_and_when_to_come_back,
    sockets.test_a_request_that_is_late_is_served_after_all_others_by_default,
    sockets.test_more_than_may_be_under_way_wait_in_line,
    sockets.test_who_waits_too_long_in_line_is_told,
    sockets.test_a_key_has_so_many_requests_at_a_time,
    sockets.test_what_is_passed_on_takes_a_place_like_any_other,
    sockets.test_what_is_passed_on_counts_for_its_key,
    sockets.test_what_waits_to_be_passed_on_leaves_the_line,
    sockets.test_a_request_that_takes_too_long_is_ended,
    sockets.test_an_engine_that_wants_a_key_is_sent_its_own,
    sockets.test_shutting_down_lets_what_runs_end_and_refuses_the_rest,
    sockets.test_shutting_down_cuts_what_outlasts_the_grace,
    faults.test_an_engine_hears_that_a_client_has_left,
)
