"""Grants: what becomes of a wish under a key's privileges and the fleet's tiers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyslo.gateway.config.gateway import GatewayConfig, parse_config
from polyslo.gateway.config.slo import KeyConfig
from polyslo.gateway.config.table import MistakenConfigError
from polyslo.gateway.requests.grants import Slo, grant, tenant_of
from polyslo.gateway.requests.keys import hash_of
from polyslo.gateway.requests.openai_errors import BadRequest, Refusal
from polyslo.gateway.requests.wishes import NOTHING, Wish

CLASSES = {
    "voice": {"ttft_ms": 300, "tpot_ms": 20},
    "chat": {"ttft_ms": 500, "tpot_ms": 50},
    "report": {"ttft_ms": 5000, "tpot_ms": 150},
}


def configured(otherwise: str = "clamp", **key: Any) -> tuple[KeyConfig | None, GatewayConfig]:
    """Return a configuration with three classes, the default chat, and its one key, if there is any."""
    table: dict[str, Any] = {
        "classes": CLASSES,
        "slo": {"default": "chat", "on_tighter": otherwise},
        "keys": {"a": {"hash": hash_of(b"a"), **key}} if key else {},
    }
    config = parse_config(table, "g.toml", {"worker_urls": ("http://a:1",)})
    return (config.keys[0] if key else None), config


def wish_of(ttft_ms: float | None = None, tpot_ms: float | None = None, class_name: str | None = None) -> Wish:
    """Return a wish as headers would give it."""
    return Wish(
        ttft_ms,
        tpot_ms,
        class_name,
        None if ttft_ms is None else "x-slo-ttft-ms",
        None if tpot_ms is None else "x-slo-tpot-ms",
        None if class_name is None else "slo.class",
    )


def granted(wish: Wish, otherwise: str = "clamp", **key: Any) -> Slo:
    """Return the SLO that is granted."""
    slo = grant(wish, *configured(otherwise, **key))
    assert isinstance(slo, Slo)
    return slo


def refused(wish: Wish, otherwise: str = "refuse", **key: Any) -> Refusal:
    """Return the refusal."""
    refusal = grant(wish, *configured(otherwise, **key))
    assert isinstance(refusal, Refusal)
    return refusal


def test_who_asks_for_nothing_gets_the_default_class() -> None:
    """The key's own default, or that of the gateway."""
    slo = granted(NOTHING)
    assert (slo.ttft_s, slo.tpot_s, slo.tier, slo.class_name, slo.clamps) == (0.5, 0.05, 1, "chat", ())
    assert granted(NOTHING, default="report", min_tpot_ms=100).class_name == "report"


def test_what_is_not_wished_comes_from_the_class() -> None:
    """A number replaces the class's; the other number stays the class's, or the default's."""
    slo = granted(wish_of(tpot_ms=80, class_name="report"))
    assert (slo.ttft_s, slo.tpot_s, slo.tier, slo.class_name) == (5.0, 0.08, 1, "report")
    slo = granted(wish_of(ttft_ms=100))
    assert (slo.ttft_s, slo.tpot_s, slo.class_name) == (0.1, 0.05, None)


@pytest.mark.parametrize(("tpot_ms", "tier"), [(20, 0), (49.9, 0), (50, 1), (149, 1), (150, 2), (60_000, 2)])
def test_the_tier_is_the_loosest_that_is_not_looser(tpot_ms: float, tier: int) -> None:
    """A request's due times follow its own TPOT, its place that of its tier."""
    slo = granted(wish_of(tpot_ms=tpot_ms))
    assert (slo.tier, slo.tpot_s) == (tier, tpot_ms / 1e3)


def test_a_wish_below_the_minimum_is_clamped_and_told() -> None:
    """The response header names each time that was wished and granted."""
    slo = granted(wish_of(100, 20), min_ttft_ms=400, min_tpot_ms=30)
    assert (slo.ttft_s, slo.tpot_s, slo.tier) == (0.4, 0.03, 0)
    assert slo.headers() == ((b"x-polyslo-slo-clamped", b"ttft_ms=100->400, tpot_ms=20->30"),)
    assert granted(wish_of(400, 30), min_ttft_ms=400, min_tpot_ms=30).headers() == ()


def test_a_wish_below_the_minimum_is_refused() -> None:
    """403: header, what the key may ask for, what was got, what to do."""
    refusal = refused(wish_of(100, 20), min_ttft_ms=400, min_tpot_ms=30)
    assert refusal.answer().status == 403
    assert refusal.message == (
        "x-slo-ttft-ms: this API key may ask for a ttft_ms of 400 or more, got 100; "
        "ask for 400, or ask who runs this gateway"
    )
    assert "tpot_ms of 30 or more, got 20" in refused(wish_of(tpot_ms=20), min_tpot_ms=30).message


def test_the_key_says_for_itself_what_becomes_of_a_tighter_wish() -> None:
    """A key's on_tighter wins over the gateway's."""
    assert refused(wish_of(tpot_ms=20), "clamp", min_tpot_ms=30, on_tighter="refuse").kind == "too_tight"
    assert granted(wish_of(tpot_ms=20), "refuse", min_tpot_ms=30, on_tighter="clamp").tpot_s == 0.03


def test_a_listed_class_is_granted_below_the_minima() -> None:
    """Who lists a class for a key means it, and the class's own numbers may be asked for with it."""
    key = {"classes": ["voice", "chat"], "min_tpot_ms": 50, "on_tighter": "refuse"}
    assert granted(wish_of(class_name="voice"), **key).tpot_s == 0.02
    assert granted(wish_of(tpot_ms=20, class_name="voice"), **key).tpot_s == 0.02
    assert refused(wish_of(tpot_ms=20), **key).kind == "too_tight"


def test_without_minima_the_tightest_of_the_keys_classes_binds() -> None:
    """What a key could get by a name it may get by numbers, and no more; without classes there is no bound."""
    assert granted(wish_of(tpot_ms=20), classes=["chat", "report"]).tpot_s == 0.05
    assert granted(wish_of(tpot_ms=20), classes=["chat", "voice"]).tpot_s == 0.02
    assert granted(wish_of(tpot_ms=20), tenant="x").tpot_s == 0.02


def test_a_class_that_the_key_may_not_name() -> None:
    """403 that says which it may; never another class in its place."""
    refusal = refused(wish_of(class_name="voice"), "clamp", classes=["chat", "report"])
    assert refusal.answer().status == 403
    assert refusal.message == (
        "slo.class: this API key may name chat, report, got 'voice'; name one of these, or ask who runs this gateway"
    )


def test_a_class_that_does_not_exist() -> None:
    """A 400 that suggests the nearest; where there are no classes it says so."""
    with pytest.raises(BadRequest) as caught:
        grant(wish_of(class_name="vioce"), *configured())
    assert caught.value.message == "slo.class: unknown SLO class 'vioce'; did you mean 'voice'?"
    assert caught.value.code == "unknown_slo_class"
    with pytest.raises(BadRequest, match=r"unknown SLO class 'x'; there are none, leave it out"):
        grant(wish_of(class_name="x"), None, GatewayConfig.of_worker_urls(["http://a:1"]))


def test_what_the_fleet_cannot_keep() -> None:
    """Tighter than the tightest tier: clamped to it, or a 429 that names it and that no retry will mend."""
    slo = granted(wish_of(tpot_ms=5))
    assert (slo.tpot_s, slo.tier, slo.wished_tpot_s) == (0.02, 0, 0.005)
    assert slo.headers() == ((b"x-polyslo-slo-clamped", b"tpot_ms=5->20"),)
    refusal = refused(wish_of(tpot_ms=5))
    assert refusal.message == (
        "x-slo-tpot-ms: the fastest tpot_ms that this fleet keeps is 20, got 5; ask for 20 or more"
    )
    answer = refusal.answer()
    assert answer.status == 429
    headers = dict(answer.headers)
    assert headers[b"x-llm-d-request-dropped-reason"] == b"slo-infeasible"
    assert headers[b"x-should-retry"] == b"false"
    assert int(headers[b"retry-after"]) >= 1


def test_a_ttft_below_what_the_prompt_takes_alone() -> None:
    """Clamped to it and told, or refused by its name; a default of a class stays as it is."""
    key, config = configured()
    slo = grant(wish_of(ttft_ms=50), key, config, None, 0.0804)
    assert isinstance(slo, Slo)
    assert slo.ttft_s == 0.0804
    assert str(slo.clamps[0]) == "ttft_ms=50->80.4"
    key, config = configured("refuse")
    refusal = grant(wish_of(ttft_ms=80), key, config, None, 0.080401)
    assert isinstance(refusal, Refusal)
    assert refusal.kind == "infeasible"
    assert "that an idle instance can give this prompt is 80.41, got 80; ask for 80.41 or more" in refusal.message
    assert isinstance(grant(wish_of(ttft_ms=80.41), key, config, None, 0.080401), Slo)
    slo = grant(wish_of(), key, config, None, 99.0)
    assert isinstance(slo, Slo)
    assert slo.ttft_s < 99.0


BATCH = {"batch": {"best_effort": True}}


def with_batch(promises: Any = CLASSES, default: str = "chat", **key: Any) -> tuple[KeyConfig | None, GatewayConfig]:
    """As `configured`, with a best-effort class beside those that promise something."""
    table: dict[str, Any] = {
        "classes": {**promises, **BATCH},
        "slo": {"default": default},
        "keys": {"a": {"hash": hash_of(b"a"), **key}} if key else {},
    }
    config = parse_config(table, "g.toml", {"worker_urls": ("http://a:1",)})
    return (config.keys[0] if key else None), config


def test_best_effort_is_a_class_that_promises_nothing() -> None:
    """Named, or by default; it makes no tier, and is never the default of who did not choose it."""
    key, config = with_batch(default="batch")
    for wish in (NOTHING, wish_of(class_name="batch")):
        slo = grant(wish, key, config)
        assert isinstance(slo, Slo)
        assert (slo.is_best_effort, slo.class_name, slo.tpot_s, slo.headers()) == (True, "batch", 0.15, ())
    assert config.tiers_s == (0.02, 0.05, 0.15)
    assert not granted(NOTHING).is_best_effort
    assert (
        parse_config({"classes": {**CLASSES, **BATCH}}, "g.toml", {"worker_urls": ("http://a:1",)}).default_class.name
        == "report"
    )


def test_times_ask_for_an_slo_where_best_effort_is_only_the_default() -> None:
    """What they leave open comes from the loosest class that the key may name; of none, from one over the tiers."""
    slo = grant(wish_of(tpot_ms=60), *with_batch(default="batch"))
    assert isinstance(slo, Slo)
    assert (slo.is_best_effort, slo.ttft_s, slo.tpot_s) == (False, 5.0, 0.06)
    slo = grant(wish_of(tpot_ms=60), *with_batch(classes=["chat", "batch"], default="batch"))
    assert isinstance(slo, Slo)
    assert (slo.is_best_effort, slo.ttft_s) == (False, 0.5)
    slo = grant(wish_of(tpot_ms=60), *with_batch({}, default="batch"))
    assert isinstance(slo, Slo)
    assert (slo.is_best_effort, slo.ttft_s) == (False, 1.0)


def test_best_effort_and_times_exclude_each_other() -> None:
    """A class that is named beside a time is a 400 that names the header, as nobody can mean both."""
    with pytest.raises(BadRequest, match=r"x-slo-tpot-ms: class 'batch' is best effort and promises no times"):
        grant(wish_of(tpot_ms=60, class_name="batch"), *with_batch())


def test_best_effort_is_a_permission_like_any_class() -> None:
    """A key that does not list it may not name it; one that lists nothing else may not ask for times."""
    refusal = grant(wish_of(class_name="batch"), *with_batch(classes=["chat"]))
    assert isinstance(refusal, Refusal)
    assert refusal.kind == "class_not_allowed"
    only = with_batch(classes=["batch"], default="batch")
    refusal = grant(wish_of(tpot_ms=60), *only)
    assert isinstance(refusal, Refusal)
    assert refusal.message.startswith("x-slo-tpot-ms: this API key may ask for best effort only")
    slo = grant(NOTHING, *only)
    assert isinstance(slo, Slo)
    assert slo.is_best_effort


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"best_effort": True, "tpot_ms": 50}, r"classes.batch.tpot_ms: and best_effort exclude each other, got 50"),
        ({"ttft_ms": 500}, r"classes.batch.tpot_ms: must be a number .*, where best_effort is not true, got nothing"),
        ({}, r"classes.batch.ttft_ms: must be a number"),
    ],
)
def test_a_class_promises_both_times_or_is_best_effort(table: dict[str, Any], message: str) -> None:
    """Anything between is a mistake of the configuration."""
    with pytest.raises(MistakenConfigError, match=message):
        parse_config({"classes": {"batch": table}}, "g.toml", {"worker_urls": ("http://a:1",)})


def test_tiers_that_were_learned_replace_the_configured() -> None:
    """The shell hands in the tiers of now."""
    key, config = configured()
    slo = grant(wish_of(tpot_ms=30), key, config, (0.028, 0.041, 0.07))
    assert isinstance(slo, Slo)
    assert (slo.tier, slo.tpot_s) == (0, 0.03)
    clamped = grant(wish_of(tpot_ms=20), key, config, (0.0282, 0.041))
    assert isinstance(clamped, Slo)
    assert [str(clamp) for clamp in clamped.clamps] == ["tpot_ms=20->28.2"]


def test_a_default_that_is_bounded_is_neither_told_nor_refused() -> None:
    """Nobody wished it, so nobody is reproached."""
    slo = granted(NOTHING, "refuse", min_tpot_ms=80)
    assert (slo.tpot_s, slo.headers()) == (0.08, ())


def test_the_last_token_of_a_response_is_due_by_the_same_formula() -> None:
    """Streamed or not, token i is due at arrival + TTFT + i times TPOT."""
    slo = granted(NOTHING)
    assert slo.due_s(10.0, 0) == pytest.approx(10.5)
    assert slo.due_s(10.0, 100) == pytest.approx(15.5)


def test_whom_a_request_counts_for() -> None:
    """The key's tenant whatever the request says; else what it says; else the key's name; else nobody."""
    said = Wish(tenant="said")
    bound, _ = configured(tenant="acme")
    free, _ = configured(min_tpot_ms=1)
    assert [tenant_of(said, bound), tenant_of(said, free), tenant_of(NOTHING, free)] == ["acme", "said", "a"]
    assert tenant_of(NOTHING, None) is None


TIMES = st.none() | st.floats(0.01, 60_000)
LEAST = st.none() | st.floats(0.01, 60_000)


@given(TIMES, TIMES, st.none() | st.sampled_from(list(CLASSES)), LEAST, LEAST, st.sampled_from(["clamp", "refuse"]))
def test_no_grant_is_tighter_than_the_wish_the_key_or_the_fleet(
    ttft_ms: float | None,
    tpot_ms: float | None,
    class_name: str | None,
    least_ttft_ms: float | None,
    least_tpot_ms: float | None,
    on_tighter: str,
) -> None:
    """And it is looser than the wish only where the response says so; refusing, it is the wish or nothing."""
    config = configured(on_tighter)[1]
    key = KeyConfig("a", hash_of(b"a"), None, None, least_ttft_ms, least_tpot_ms)
    slo = grant(wish_of(ttft_ms, tpot_ms, class_name), key, config)
    if isinstance(slo, Refusal):
        assert on_tighter == "refuse"
        assert slo.answer().status in (403, 429)
        return
    base = config.default_class if class_name is None else config.class_named(class_name)
    asked_ttft_ms, asked_tpot_ms = ttft_ms or base.ttft_ms, tpot_ms or base.tpot_ms
    assert slo.tpot_s >= config.tiers_s[slo.tier]
    assert slo.tier == len(config.tiers_s) - 1 or slo.tpot_s < config.tiers_s[slo.tier + 1]
    assert slo.ttft_s == pytest.approx(max(asked_ttft_ms, least_ttft_ms or 0) / 1e3)
    assert slo.tpot_s == pytest.approx(max(asked_tpot_ms, least_tpot_ms or 0, 20) / 1e3)
    told = {clamp.key for clamp in slo.clamps}
    is_named = class_name is not None
    assert ("ttft_ms" in told) == (slo.ttft_s > asked_ttft_ms / 1e3 * (1 + 1e-9) and (ttft_ms is not None or is_named))
    assert ("tpot_ms" in told) == (slo.tpot_s > asked_tpot_ms / 1e3 * (1 + 1e-9) and (tpot_ms is not None or is_named))
    assert not (told and on_tighter == "refuse")
