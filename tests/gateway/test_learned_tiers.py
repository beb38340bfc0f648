"""Tiers learned at the start, from the requests of earlier journals."""

from __future__ import annotations

from pathlib import Path

import pytest
from journaled_fleet import JournaledFleet, workload

from polyslo.errors import ConfigError
from polyslo.gateway.config.gateway import GatewayConfig, parse_config
from polyslo.gateway.journal.learned_tiers import with_learned_tiers


def config(**tiers: object) -> GatewayConfig:
    """Return a configuration with one instance."""
    endpoints = [{"url": f"http://127.0.0.1:{port}"} for port in (8000, 8001, 8002)]
    return parse_config({"tiers": tiers, "models": [{"endpoints": endpoints}]}, "g.toml")


def test_what_requests_asked_for_decides_about_the_next_start(tmp_path: Path) -> None:
    """The tightest TPOT of the journal has a tier; a bound on their number is kept."""
    fleet = JournaledFleet(tmp_path / "journal", workload(duration_s=1.0))
    fleet.run()
    asked_s = sorted(set(fleet.workload.tpot_s.tolist()))
    learned = with_learned_tiers(config(learn="auto", learn_from=[str(tmp_path / "journal")]))
    assert learned.tiers_s[0] == pytest.approx(asked_s[0])
    assert 1 < len(learned.tiers_s) <= len(asked_s) + 1
    two = with_learned_tiers(config(learn=2, learn_from=[str(tmp_path / "journal")]))
    assert len(two.tiers_s) == 2


def test_given_tiers_stay() -> None:
    """Nothing is read where nothing is to be learned."""
    given = config(tpots_ms=[20, 40])
    assert with_learned_tiers(given) is given


def test_journals_that_cannot_be_used_are_named() -> None:
    """With the key that names them."""
    with pytest.raises(ConfigError, match=r"tiers.learn_from: absent.journal: can't be read"):
        with_learned_tiers(config(learn="auto", learn_from=["absent.journal"]))
