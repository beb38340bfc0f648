"""Journals that were cut off, damaged, or are none."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from journaled_fleet import JournaledFleet, workload

from polyslo.core.state import DECODING, QUEUED, new_requests
from polyslo.errors import InputError
from polyslo.gateway.journal.blocks import (
    HEAD,
    MAGIC,
    RECORDS,
    STATE,
    CutOffError,
    DamagedError,
    encode_block,
    read_blocks,
)
from polyslo.gateway.journal.coding import unpack_records
from polyslo.gateway.journal.head import JournalHead
from polyslo.gateway.journal.reader import JournalReader
from polyslo.gateway.journal.replay import Replayed, replay
from polyslo.gateway.journal.state import decode_state, encode_state, restore

PAYLOADS = (b"head", b"state" * 50, b"", bytes(range(256)))
FILE = MAGIC + b"".join(encode_block(kind, payload) for kind, payload in enumerate(PAYLOADS, start=1))


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a short journal's file."""
    path = tmp_path_factory.mktemp("journal") / "journal"
    JournaledFleet(path, workload(100.0, 2.0), rotations_s=(3.0,)).run()
    return path


def opening_bytes(path: Path) -> int:
    """Return where a file's records begin."""
    with path.open("rb") as file:
        blocks = read_blocks(file)
        next(blocks), next(blocks)
        return file.tell()


def test_blocks_come_back_as_they_were_written() -> None:
    """Kinds and payloads, in order, an empty one too."""
    assert list(read_blocks(io.BytesIO(FILE))) == list(enumerate(PAYLOADS, start=1))


@given(st.integers(len(MAGIC), len(FILE) - 1))
def test_a_file_that_is_cut_off_gives_its_whole_blocks(size: int) -> None:
    """Wherever it ends: a block that is not whole is not there, and that is told."""
    found, ends = [], [len(MAGIC)]
    for kind, payload in enumerate(PAYLOADS, start=1):
        ends.append(ends[-1] + len(encode_block(kind, payload)))
    blocks = read_blocks(io.BytesIO(FILE[:size]))
    if size in ends:
        found += list(blocks)
    else:
        with pytest.raises(CutOffError):
            found.extend(blocks)
    assert len(found) == sum(end <= size for end in ends) - 1


@given(st.integers(len(MAGIC), len(FILE) - 1), st.integers(1, 255))
def test_no_byte_can_change_unnoticed(at: int, change: int) -> None:
    """A changed byte is damage: it is never taken for the end of the file, and no payload is wrong."""
    damaged = bytearray(FILE)
    damaged[at] ^= change
    found = []
    with pytest.raises(DamagedError, match=r"checksum"):
        found.extend(read_blocks(io.BytesIO(damaged)))
    assert found == list(enumerate(PAYLOADS, start=1))[: len(found)]


def test_a_cut_off_journal_is_replayed_up_to_its_last_whole_block(journal: Path, tmp_path: Path) -> None:
    """That is how a gateway that was killed leaves it: no failure, but a notice."""
    cut = tmp_path / "cut"
    cut.write_bytes(journal.read_bytes()[:-7])
    reader, found, whole = JournalReader(cut), Replayed(), Replayed()
    replay(reader, found)
    replay(JournalReader(journal), whole)
    assert found.difference is None
    assert 0 < found.num_inputs < whole.num_inputs
    assert reader.damage is None
    (notice,) = reader.notices
    assert "cut off at byte" in notice


def test_a_damaged_journal_is_replayed_up_to_the_damage(journal: Path, tmp_path: Path) -> None:
    """What is good is used, and the damage is told as such."""
    damaged = bytearray(journal.read_bytes())
    damaged[(opening_bytes(journal) + len(damaged)) // 2] ^= 1
    (tmp_path / "damaged").write_bytes(damaged)
    reader, found = JournalReader(tmp_path / "damaged"), Replayed()
    replay(reader, found)
    assert found.difference is None
    assert found.num_inputs > 0
    assert reader.damage is not None
    assert "damaged in the block at byte" in reader.damage


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a journal of polyslo"),
        (b"arrival_s,input_tokens\n0,5\n", "not a journal of polyslo"),
        (MAGIC, "expected block 1, got None"),
        (MAGIC + encode_block(STATE, b""), "expected block 1, got 2"),
        (MAGIC + encode_block(HEAD, b"{}"), "the journal's head can't be read"),
        (MAGIC + encode_block(HEAD, b'{"polyslo": "9.9", "format": 7}'), "has format 7, .*replay it with polyslo 9.9"),
    ],
)
def test_what_is_no_journal_is_refused_in_a_sentence(tmp_path: Path, content: bytes, message: str) -> None:
    """It names the file and what to do."""
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        JournalReader(tmp_path / "x")
    assert str(tmp_path / "x") in str(error.value)


def test_a_file_that_is_not_there_is_named() -> None:
    """As every file that can't be read."""
    with pytest.raises(InputError, match=r"nowhere/x: can't be read, No such file"):
        JournalReader("nowhere/x")


def test_another_version_or_machine_is_noticed() -> None:
    """Decisions may differ then, and the reader should know why."""
    head = JournalHead(policy="polyserve", fleet={}, num_records=1)
    assert JournalHead.decode(head.encode()) == head
    assert head.notices() == []
    (version,) = replace(head, polyslo="9.9.9").notices()
    (code,) = replace(head, fingerprint="0").notices()
    (machine,) = replace(head, machine="vax").notices()
    assert "written by polyslo 9.9.9" in version
    assert "the code that decides, or its compiler, was another" in code
    assert "written on vax" in machine


def test_an_unknown_record_is_refused() -> None:
    """It was written by a version that knows more."""
    with pytest.raises(InputError, match="a record at byte 0 of a block is none that this version knows"):
        list(unpack_records(b"\xff\x00\x00"))
    with pytest.raises(InputError, match="none that this version knows"):
        list(unpack_records(b"\x01\x00"))


@pytest.mark.parametrize("name", ["order", "pending_size", "free", "instances", "room"])
def test_a_state_that_leads_out_of_its_arrays_is_refused(journal: Path, name: str) -> None:
    """Compiled code does not look: it would read and write where nothing of ours is."""
    state = JournalReader(journal).state
    if name == "instances":
        state[name]["group"] = 99
    else:
        state[name][:] = 1 << 40
    with pytest.raises(InputError, match=r"the journal's state is none"):
        restore(state, 0, lambda kind, r, i: None)


def test_a_state_of_other_fields_is_refused(journal: Path) -> None:
    """Another version's belief is not squeezed into this one's."""
    state = JournalReader(journal).state
    del state["advanced_s"]
    with pytest.raises(InputError, match="none of this version"):
        restore(state, 0, lambda kind, r, i: None)
    with pytest.raises(InputError, match="can't be read"):
        decode_state(b"PK nonsense")
    assert set(decode_state(encode_state(state))) == set(state)


def test_an_older_state_is_read_by_the_names_of_its_fields(journal: Path) -> None:
    """Fields in another order, and one that came later: that one is as in a new fleet, all others as written."""
    state = JournalReader(journal).state
    written = state["instances"]
    older = np.zeros(written.shape, dtype=[(n, written.dtype[n]) for n in sorted(written.dtype.names) if n != "busy"])
    for name in older.dtype.names:
        older[name] = written[name]
    instances = restore(state | {"instances": older}, 0, lambda kind, r, i: None).fleet.instances
    assert not instances["busy"].any()
    for name in older.dtype.names:
        assert (instances[name] == written[name]).all(), name


def test_a_state_without_when_prompts_were_sent_last_has_it_again(journal: Path) -> None:
    """`last_sent_s` is never earlier than when a queued prompt was sent; those that are not queued don't matter."""
    state = JournalReader(journal).state
    requests = new_requests(3)
    requests["stage"] = QUEUED, QUEUED, DECODING
    requests["instance"] = 1
    requests["decided_s"] = 3.5, 2.5, 4.5
    written = state["instances"].copy()
    written["num_residents"] = 0
    older = written[[name for name in written.dtype.names if name != "last_sent_s"]]
    state |= {"instances": older, "requests": requests, "free": np.zeros(0, np.int64)}
    assert restore(state, 0, lambda kind, r, i: None).fleet.instances["last_sent_s"][:2].tolist() == [0.0, 3.5]


def test_residents_out_of_order_are_refused(journal: Path) -> None:
    """A ledger whose numbers are not those of its requests would never let go of them."""
    state = JournalReader(journal).state
    requests = new_requests(2)
    requests["finish_iteration"] = 5, 7
    instances = state["instances"].copy()
    instances["num_residents"] = [2, *[0] * (len(instances) - 1)]
    names = ("resident_base", "resident_finish", "resident")
    tables = {name: np.zeros((len(instances), 2), np.int64) for name in names}
    tables["resident"][0], tables["resident_finish"][0] = (0, 1), (5, 7)
    state |= {"instances": instances, "requests": requests, "free": np.zeros(0, np.int64), **tables}
    restore(state, 0, lambda kind, r, i: None)
    for wrong in ((7, 5), (5, 8)):
        tables["resident_finish"][0] = wrong
        with pytest.raises(InputError, match="in order of their end"):
            restore(state, 0, lambda kind, r, i: None)


def test_a_state_with_a_field_of_its_own_is_refused(journal: Path) -> None:
    """Whoever wrote it knew something that this version would forget."""
    state = JournalReader(journal).state
    newer = np.zeros(state["requests"].shape, dtype=[*state["requests"].dtype.descr, ("mood", "f8")])
    with pytest.raises(InputError, match=r"none of this version \(requests:"):
        restore(state | {"requests": newer}, 0, lambda kind, r, i: None)


def test_records_name_only_what_is_there(journal: Path, tmp_path: Path) -> None:
    """A request that the fleet has no record for is refused, before compiled code gets it."""
    forged = journal.read_bytes()[: opening_bytes(journal)] + encode_block(
        RECORDS, b"\x03" + bytes(4) + bytes(8) + (1 << 20).to_bytes(4, "little")
    )
    (tmp_path / "forged").write_bytes(forged)
    with pytest.raises(InputError, match=r"the journal names number 1048576 of 512"):
        replay(JournalReader(tmp_path / "forged"), Replayed())
