from __future__ import annotations

import pytest

from polyslo.engines.scheduler_settings import SchedulerSettings
from polyslo.errors import ConfigError, ProfileError

PROFILE = "llama-3.1-8b-h200-tp1"


def test_a_profile_is_slowed_and_burdened():
    """`speed` divides every time of the profile, `host_ms` comes to each step before."""
    plain = SchedulerSettings.parse({"profile": PROFILE}).load()
    slow = SchedulerSettings.parse({"profile": PROFILE, "speed": 0.5, "host_ms": 1}).load()
    assert slow.iteration_s(8, 0, 800, 0.0) == pytest.approx(2 * (0.001 + plain.iteration_s(8, 0, 800, 0.0)))


def test_without_a_profile_steps_are_recorded_only():
    """Measuring an engine needs no profile of it."""
    assert SchedulerSettings.parse({"steps_file": "steps.jsonl"}).load() is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "nothing to do; set profile"),
        ([], "must be a JSON object"),
        ({"profil": PROFILE}, "unknown key 'profil'; did you mean 'profile'"),
        ({"profile": ""}, "profile: must be a text"),
        ({"profile": 5}, "profile: must be a text, got 5"),
        ({"profile": PROFILE, "speed": 0}, "speed: must be from 0.001 to 1000, got 0"),
        ({"profile": PROFILE, "speed": True}, "speed: must be a number, got True"),
        ({"profile": PROFILE, "speed": "2"}, "speed: must be a number, got '2'"),
        ({"profile": PROFILE, "margin_ratio": 0.95}, "margin_ratio: must be from 0 to 0.9"),
        ({"profile": PROFILE, "pace": float("nan")}, "pace: must be a number"),
        ({"profile": PROFILE, "untested_vllm": 1}, "untested_vllm: must be true or false, got 1"),
        ({"steps_file": "s", "steps_max_bytes": 5e6}, "steps_max_bytes: must be a number"),
        ({"steps_file": "s", "pace": 1}, "pace needs a profile"),
    ],
)
def test_wrong_settings_are_told(given, words):
    """Unknown keys, kinds and ranges are errors that name the key."""
    with pytest.raises(ConfigError) as told:
        SchedulerSettings.parse(given)
    assert words in str(told.value)


def test_an_unknown_profile_is_told():
    """A profile's name is checked where it is read."""
    with pytest.raises(ProfileError, match="unknown 'llama-9'"):
        SchedulerSettings.parse({"profile": "llama-9"}).load()
