"""What would have been under another policy: journals as workloads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from journaled_fleet import JournaledFleet, workload

from polyslo.errors import InputError
from polyslo.gateway.journal.lived import relive
from polyslo.gateway.journal.reader import JournalReader, open_journals
from polyslo.gateway.journal.what_if import fidelity, what_if

LOAD = workload(60.0, 6.0)


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a journal without any unrest."""
    path = tmp_path_factory.mktemp("journal") / "journal"
    JournaledFleet(path, LOAD).run()
    return path


def test_a_journal_is_the_workload_that_was_served(journal: Path) -> None:
    """Arrivals, lengths, SLOs and tiers, to the number; nothing had to be assumed."""
    lived = relive([JournalReader(journal)])
    found = lived.workload
    assert found.arrival_s == pytest.approx(LOAD.arrival_s - LOAD.arrival_s[0], abs=1e-9)
    for name in ("input_tokens", "output_tokens", "ttft_s", "tpot_s", "tier"):
        assert np.array_equal(getattr(found, name), getattr(LOAD, name)), name
    assert found.tpots_s == LOAD.tpots_s
    assert lived.notes == ()


def test_the_policy_that_served_is_simulated_beside_what_was_measured(journal: Path) -> None:
    """Live and simulated, scored alike: with engines that keep to the profile they agree."""
    comparison = what_if([JournalReader(journal)], ["lmetric", "polyserve", "polyserve:without=promotion"])
    assert comparison.policies == ("polyserve (live)", "polyserve", "lmetric", "polyserve:without=promotion")
    live, simulated, *_ = comparison.runs
    assert [tier.num_requests for tier in live.tiers] == [tier.num_requests for tier in simulated.tiers]
    assert live.attainment == pytest.approx(simulated.attainment, abs=0.02)
    assert live.instance_seconds == pytest.approx(simulated.instance_seconds, rel=0.15)
    assert "live and" in fidelity(comparison)
    assert {goodput.policy for goodput in comparison.goodputs} == set(comparison.policies[1:])


def test_prefill_apart_from_decode_is_simulated_so(tmp_path: Path) -> None:
    """A journal of a disaggregated fleet: mode and first tokens as they were, live and simulated agree."""
    JournaledFleet(tmp_path / "journal", LOAD, mode="pd", num_instances=4).run()
    comparison = what_if([JournalReader(tmp_path / "journal")], ["minimal"])
    live, simulated, other = comparison.runs
    assert {run.mode for run in comparison.runs} == {"pd"}
    assert live.attainment == pytest.approx(simulated.attainment, abs=0.02)
    assert live.attainment > 0.9
    assert other.policy == "minimal"


def test_what_is_not_known_of_requests_is_assumed_and_told(tmp_path: Path) -> None:
    """Refused and cancelled requests get what had come, else their tier's mean; the notes say how many."""
    fleet = JournaledFleet(
        tmp_path / "journal", workload(), policy="polyserve:refuse=on", cancelled_share=0.3, failures=((1.0, 0),)
    )
    fleet.run()
    lived = relive([JournalReader(tmp_path / "journal")])
    assert len(lived.workload) == len(fleet.workload)
    cancelled, failed, unknown = lived.notes
    assert cancelled.endswith("cancelled requests are simulated with the output that had come by then.")
    assert failed.endswith("failed requests are simulated with the output that had come by then.")
    assert unknown.endswith("are simulated with the mean output of their tier.")
    assert int(unknown.split()[0]) >= fleet.outcomes["refused"]
    assert lived.workload.output_tokens.min() >= 1


def test_a_journal_of_several_files_is_one_workload(tmp_path: Path) -> None:
    """A request that arrived in one and ended in the next is whole; other fleets' files are refused."""
    JournaledFleet(tmp_path / "journal", LOAD, rotations_s=(2.0, 4.0)).run()
    journals = open_journals(list(tmp_path.iterdir()))
    lived = relive(journals)
    assert np.array_equal(lived.workload.output_tokens, LOAD.output_tokens)
    assert lived.workload.name == "journal journal.2 and 2 more"
    assert what_if(journals, []).runs[0].instance_seconds > 0
    journals[1].head = replace(journals[1].head, policy="minimal")
    with pytest.raises(InputError, match=r"different models, fleets or policies; replay them one by one"):
        relive(journals)


def test_engines_with_a_constant_chunk_keep_it_under_every_policy(journal: Path) -> None:
    """Unless they are asked to be others; both is told."""
    reader = JournalReader(journal)
    reader.head = replace(reader.head, dynamic_chunking=False)
    constant = what_if([reader], ["lmetric", "static-tiers", "minimal:chunk=512"])
    asked = what_if([reader], ["lmetric"], dynamic_chunking=True)
    assert any("a constant chunk of 8,192 tokens" in note for note in constant.notes)
    assert any("which they did not" in note for note in asked.notes)
    assert constant.runs[1].num_iterations != asked.runs[1].num_iterations


def test_a_journal_with_too_few_requests_is_refused(tmp_path: Path) -> None:
    """One arrival has no rate."""
    one = replace(
        LOAD,
        **{
            name: getattr(LOAD, name)[:1]
            for name in ("arrival_s", "input_tokens", "output_tokens", "ttft_s", "tpot_s", "tier")
        },
    )
    JournaledFleet(tmp_path / "journal", one).run()
    with pytest.raises(InputError, match="1 requests arrived in the journal, a simulation needs two"):
        relive([JournalReader(tmp_path / "journal")])
