import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from polyslo.errors import InputError, TraceError
from polyslo.workload.readers import FORMATS, detect, read_trace

# Small files in each public format, with made-up numbers.
AZURE_2023 = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-01-02 03:04:05.1000000,10,1
2023-01-02 03:04:05.3500001,20,2
2023-01-02 03:05:05.1000000,30,3
"""
AZURE_2024 = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-01 00:00:00+00:00,10,1
2024-05-01 00:00:00.250000+00:00,20,0
2024-05-01 00:01:00+00:00,30,3
"""
MOONCAKE = """{"timestamp": 1000, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]}
{"timestamp": 1500, "input_length": 700, "output_length": 6, "hash_ids": [0, 2]}

{"timestamp": 4000, "input_length": 10, "output_length": 7, "hash_ids": []}
"""
BAILIAN = "\n".join(
    json.dumps(
        {
            "chat_id": chat,
            "parent_chat_id": parent,
            "timestamp": timestamp,
            "input_length": inputs,
            "output_length": outputs,
            "type": "text",
            "turn": 1,
            "hash_ids": blocks,
        }
    )
    for chat, parent, timestamp, inputs, outputs, blocks in (
        (1, -1, 10.5, 40, 5, [3, 4, 5]),
        (2, -1, 11.0, 50, 6, [6]),
        (3, 1, 12.5, 60, 7, [3, 4, 5, 7]),
        (4, 3, 13.5, 70, 8, [3]),
        (6, 5, 14.5, 80, 9, [9]),
    )
)
BURSTGPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,100,10,110,Conversation log
45,ChatGPT,200,0,200,Conversation log
65.5,GPT-4,300,30,330,API log
"""
BURSTGPT_SESSIONS = """Timestamp,Session ID,Elapsed time,Model,\
Request tokens,Response tokens,Total tokens,Log Type
5,s1,0.5,ChatGPT,100,10,110,Conversation log
65.5,s2,1.5,GPT-4,300,30,330,API log
"""
SHAREGPT_LENGTHS = """num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio
11,4,15,2.75
7,9,16,0.8
"""
SHAREGPT = """[
{"id": "a", "conversations": [{"from": "human", "value": "123456789"},
 {"from": "gpt", "value": "123456789012"}]},
{"id": "b", "conversations": [{"from": "gpt", "value": "begins with an answer"}]},
{"id": "c", "conversations": [{"from": "system", "value": "s"}, {"from": "user", "value": "1234"},
 {"from": "assistant", "value": "1"}, {"from": "user", "value": "more"}]},
{"id": "d", "conversations": []}
]"""
VLLM_BENCH = json.dumps(
    {
        "date": "20250101-000000",
        "completed": 2,
        "input_lens": [12, 13, 14],
        "output_lens": [3, 0, 5],
        "start_times": [1000.25, 1001.0, 1002.25],
        "ttfts": [0.1, 0.0, 0.1],
    }
)
NATIVE = """arrival_s,input_tokens,output_tokens,client_id
2.5,10,1,a
3.5,20,2,b
"""


def write(folder: Path, text: str, name: str = "trace.txt") -> Path:
    """Write a trace file."""
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("format", "text", "arrival_s", "inputs", "outputs"),
    [
        ("azure", AZURE_2023, [0.0, 0.2500001, 60.0], [10, 20, 30], [1, 2, 3]),
        ("azure", AZURE_2024, [0.0, 60.0], [10, 30], [1, 3]),
        ("mooncake", MOONCAKE, [0.0, 0.5, 3.0], [600, 700, 10], [5, 6, 7]),
        ("bailian", BAILIAN, [0.0, 0.5, 2.0, 3.0, 4.0], [40, 50, 60, 70, 80], [5, 6, 7, 8, 9]),
        ("burstgpt", BURSTGPT, [0.0, 60.5], [100, 300], [10, 30]),
        ("burstgpt", BURSTGPT_SESSIONS, [0.0, 60.5], [100, 300], [10, 30]),
        ("sharegpt", SHAREGPT_LENGTHS, None, [11, 7], [4, 9]),
        ("sharegpt", SHAREGPT, None, [3, 1], [3, 1]),
        ("vllm-bench", VLLM_BENCH, [0.0, 2.0], [12, 14], [3, 5]),
        ("csv", NATIVE, [0.0, 1.0], [10, 20], [1, 2]),
        ("csv", "output_tokens,input_tokens\n1,5\n", None, [5], [1]),
    ],
)
def test_each_format_is_told_and_read(
    format: str,
    text: str,
    arrival_s: list[float] | None,
    inputs: list[int],
    outputs: list[int],
    tmp_path: Path,
) -> None:
    """The format is told from the content, whatever the file's name; times are seconds from 0."""
    path = write(tmp_path, text)
    assert detect(path) == format
    trace = read_trace(path)
    assert trace.name == "trace"
    assert trace.input_tokens.tolist() == inputs
    assert trace.output_tokens.tolist() == outputs
    assert trace.input_tokens.dtype == np.int32
    assert trace.has_arrivals == (arrival_s is not None)
    if arrival_s is not None:
        assert trace.arrival_s == pytest.approx(arrival_s)
    assert (read_trace(path, format).input_tokens == trace.input_tokens).all()


def test_what_was_dropped_or_estimated_is_told(tmp_path: Path) -> None:
    """Failed requests and unusable conversations are counted in a notice, estimates are named."""
    notices = {
        name: read_trace(write(tmp_path, text)).notices
        for name, text in (
            ("azure", AZURE_2024),
            ("burst", BURSTGPT),
            ("vllm", VLLM_BENCH),
            ("chat", SHAREGPT),
        )
    }
    assert notices["azure"] == ("1 requests without any output dropped (GeneratedTokens is 0)",)
    assert notices["burst"] == ("1 requests without any output dropped (Response tokens is 0)",)
    assert notices["vllm"] == ("1 requests without any output dropped (output_lens is 0)",)
    assert notices["chat"] == (
        "lengths estimated at 4 characters a token",
        "2 conversations without question and answer dropped",
    )


def test_prefix_blocks_and_sessions_are_kept(tmp_path: Path) -> None:
    """Blocks stay with their request; a Bailian session is a chat and all its descendants."""
    bailian = read_trace(write(tmp_path, BAILIAN))
    assert bailian.session_id is not None
    assert bailian.session_id.tolist() == [1, 2, 1, 1, 6]
    assert bailian.prefix_hash_ids is not None
    assert bailian.prefix_hash_ids[2].tolist() == [3, 4, 5, 7]
    mooncake = read_trace(write(tmp_path, MOONCAKE))
    assert mooncake.prefix_hash_ids is not None
    assert [len(ids) for ids in mooncake.prefix_hash_ids] == [2, 2, 0]
    burst = read_trace(write(tmp_path, BURSTGPT_SESSIONS))
    assert burst.session_id is not None
    assert burst.session_id.tolist() == ["s1", "s2"]
    native = read_trace(write(tmp_path, NATIVE))
    assert native.client_id is not None
    assert native.client_id.tolist() == ["a", "b"]


def test_a_benchmark_without_start_times_is_lengths_only(tmp_path: Path) -> None:
    """Older `vllm bench serve` results have no start times; a notice says what is missing."""
    path = write(tmp_path, json.dumps({"input_lens": [1, 2], "output_lens": [3, 4]}))
    trace = read_trace(path)
    assert not trace.has_arrivals
    assert trace.notices == ("no start_times in the file: lengths only",)


def test_a_rounded_clock_is_noticed_and_jittered(tmp_path: Path) -> None:
    """Arrivals that mostly coincide bring a notice; `jitter_s` spreads them, the same for a seed."""
    rows = [
        {"timestamp": 3000 * (i // 20), "input_length": i + 1, "output_length": 1, "hash_ids": [i]} for i in range(200)
    ]
    path = write(tmp_path, "\n".join(map(json.dumps, rows)))
    assert read_trace(path).notices == ("95% of arrivals share the time of another: jitter_s=3 would spread them",)
    spread = read_trace(path, jitter_s=3.0, seed=2)
    assert len(np.unique(spread.arrival_s)) == 200
    assert spread.prefix_hash_ids is not None
    assert [int(ids[0]) + 1 for ids in spread.prefix_hash_ids] == spread.input_tokens.tolist()
    assert (spread.arrival_s == read_trace(path, jitter_s=3.0, seed=2).arrival_s).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            AZURE_2023.replace(",20,", ",2x,"),
            "{path}, line 3, column ContextTokens: must be a number, got '2x'; correct or remove the row",
        ),
        (
            AZURE_2023.replace(",20,", ",,"),
            "{path}, line 3, column ContextTokens: must be a number, got ''; correct or remove the row",
        ),
        (
            AZURE_2023.replace("03:05:05.1000000", "yesterday"),
            "{path}, line 4, column TIMESTAMP: must be a UTC time like 2023-11-16 18:15:46.68, "
            "got '2023-01-02 yesterday'; correct or remove the row",
        ),
        (
            AZURE_2023.replace(",20,2", ",20,-2"),
            "{path}, line 3, column GeneratedTokens: output_tokens must be a whole number from 1 to "
            "10,000,000, got -2; correct or remove the row",
        ),
        (
            AZURE_2023.replace(",20,2", ",20"),
            "{path}, line 3: got 2 values, the header has 3; correct or remove the row",
        ),
        (
            AZURE_2023.replace("GeneratedTokens", "Generated"),
            "{path}: missing column 'GeneratedTokens'; did you mean 'Generated'? rename it",
        ),
        (AZURE_2023.splitlines()[0], "{path}: no requests; a trace needs at least one row"),
        (
            BURSTGPT.replace("65.5", "-65.5"),
            "{path}, line 4, column Timestamp: arrival must be >= 0 s and finite, got -65.5; correct or remove the row",
        ),
        (
            MOONCAKE.replace('700, "output', '0, "output'),
            "{path}, line 2, column input_length: input_tokens must be a whole number from 1 to "
            "10,000,000, got 0; correct or remove the row",
        ),
        (
            MOONCAKE.replace("4000", "null"),
            "{path}, line 4, column timestamp: must be a number, got None; correct or remove the row",
        ),
        (
            MOONCAKE.replace("[0, 2]", "[0, 2.5]"),
            "{path}, line 2, column hash_ids: must be a list of whole numbers below 2^62, got '[0, 2.5]'; "
            "correct or remove the row",
        ),
        (
            MOONCAKE.replace('"timestamp": 1500', '"time": 1500'),
            "{path}, line 2: missing key 'timestamp'; did you mean 'time'? rename it",
        ),
        (
            MOONCAKE.replace("[0, 2]}", "[0, 2]"),
            "{path}, line 2, column 80: not JSON: Expecting ',' delimiter; correct or remove the line",
        ),
        (MOONCAKE + "[1]\n", "{path}, line 5: must be a JSON object, got '[1]'; correct or remove it"),
        (
            VLLM_BENCH.replace("[3, 0, 5]", '[3, "0", 5]'),
            "{path}, row 1, column output_lens: must be a number, got '0'; correct the file",
        ),
        (
            VLLM_BENCH.replace("[3, 0, 5]", "[3, 5]"),
            "{path}: input_lens, output_lens and start_times must be of one length; correct the file",
        ),
        (
            VLLM_BENCH.replace('"output_lens"', '"output"'),
            "{path}: missing key 'output_lens'; run vllm bench serve with --save-detailed",
        ),
        (
            '[{"conversations": [{"from": "human"}]}]',
            "{path}, conversation 0: must be {{'conversations': [{{'from': TEXT, 'value': TEXT}}, ...]}}, "
            "got \"{{'conversations': [{{'from': 'human'}}]}}\"; correct or remove it",
        ),
        ("[1, 2", "{path}, line 1, column 6: not JSON: Expecting ',' delimiter; correct the file"),
        (
            "time,prompt\n1,2\n",
            "{path}: can't tell its format, it begins with 'time,prompt'; name the format, one of "
            "azure, bailian, burstgpt, csv, mooncake, parquet, sharegpt, vllm-bench",
        ),
    ],
)
def test_malformed_files_name_the_place(text: str, message: str, tmp_path: Path) -> None:
    """A wrong cell is named by file, line and column, with what was found."""
    path = write(tmp_path, text)
    with pytest.raises(TraceError) as caught:
        read_trace(path)
    expected = message.format(path=path)
    assert str(caught.value) == expected


def test_lines_are_counted_after_dropped_and_blank_rows(tmp_path: Path) -> None:
    """The line in an error is the file's, also behind rows that were dropped or skipped."""
    text = BURSTGPT.replace("65.5", "\n65.5").replace(",300,", ",0,")
    with pytest.raises(TraceError, match=r"line 5, column Request tokens: .* got 0"):
        read_trace(write(tmp_path, text))


def test_unusable_files_say_why(tmp_path: Path) -> None:
    """Absent, binary and misnamed: one line each, with the nearest format."""
    path = write(tmp_path, AZURE_2023)
    with pytest.raises(TraceError, match="unknown trace format 'azur'; did you mean 'azure'"):
        read_trace(path, "azur")
    with pytest.raises(TraceError, match="can't read it: No such file"):
        read_trace(tmp_path / "absent.csv")
    binary = tmp_path / "b.csv"
    binary.write_bytes(b"ContextTokens\n\xff\xfe")
    with pytest.raises(TraceError, match="not text in UTF-8"):
        read_trace(binary)


def parquet(folder: Path, **columns: object) -> Path:
    """Write a Parquet trace."""
    path = folder / "t.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def test_parquet_round_trip(tmp_path: Path) -> None:
    """Every column of our layout comes back; others are ignored, with a notice."""
    path = parquet(
        tmp_path,
        arrival_s=[1.0, 2.0, 4.0],
        input_tokens=[5, 6, 7],
        output_tokens=[1, 2, 3],
        prefix_hash_ids=[[1, 2], [], [1]],
        session_id=[0, 0, 1],
        mood=["a", "b", "c"],
    )
    trace = read_trace(path)
    assert detect(path) == "parquet"
    assert trace.arrival_s.tolist() == [0.0, 1.0, 3.0]
    assert trace.prefix_hash_ids is not None
    assert [ids.tolist() for ids in trace.prefix_hash_ids] == [[1, 2], [], [1]]
    assert trace.session_id is not None
    assert trace.session_id.tolist() == [0, 0, 1]
    assert trace.notices == ("columns ignored: mood",)


def test_parquet_without_times_is_lengths_only(tmp_path: Path) -> None:
    """Absent, empty and all-NaN times all mean that only lengths are known."""
    lengths = {"input_tokens": [5, 6], "output_tokens": [1, 2]}
    assert not read_trace(parquet(tmp_path, **lengths)).has_arrivals
    assert not read_trace(parquet(tmp_path, arrival_s=[np.nan, np.nan], **lengths)).has_arrivals
    empty = pa.array([None, None], pa.float64())
    assert not read_trace(parquet(tmp_path, arrival_s=empty, **lengths)).has_arrivals


def test_broken_parquet_is_named(tmp_path: Path) -> None:
    """Missing columns, nulls, text for numbers and truncated files name the place."""
    with pytest.raises(TraceError, match="missing column 'output_tokens'"):
        read_trace(parquet(tmp_path, input_tokens=[1]))
    with pytest.raises(TraceError, match="row 1, column input_tokens: empty"):
        read_trace(parquet(tmp_path, input_tokens=[1, None], output_tokens=[1, 1]))
    with pytest.raises(TraceError, match="column input_tokens: must hold numbers, got string"):
        read_trace(parquet(tmp_path, input_tokens=["1"], output_tokens=[1]))
    with pytest.raises(TraceError, match="row 0, column arrival_s: arrival must be >= 0"):
        read_trace(parquet(tmp_path, arrival_s=[-1.0, 2.0], input_tokens=[1, 1], output_tokens=[1, 1]))
    for blocks, got in (
        (["a", "b"], "got string"),
        ([[1.5], [2.0]], "got list<element: double>"),
        ([[1, None], [2]], "got list<element: int64> with empty elements"),
    ):
        with pytest.raises(TraceError, match=f"column prefix_hash_ids: must hold lists of whole numbers, {got}; conv"):
            read_trace(parquet(tmp_path, input_tokens=[1, 1], output_tokens=[1, 1], prefix_hash_ids=blocks))
    nothing = pa.array([], pa.null())
    with pytest.raises(TraceError, match="no requests; a trace needs at least one row"):
        read_trace(parquet(tmp_path, input_tokens=nothing, output_tokens=nothing))
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 and nothing else")
    with pytest.raises(TraceError, match="can't read it as Parquet"):
        read_trace(broken)


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pyarrow is an extra: without it the error says what to install."""
    path = parquet(tmp_path, input_tokens=[1], output_tokens=[1])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"pip install 'polyslo\[parquet\]'"):
        read_trace(path)


@pytest.mark.parametrize(
    ("file", "format", "num_requests"),
    [
        ("azure2023_conv_head.csv", "azure", 399),
        ("mooncake_conversation_head.jsonl", "mooncake", 200),
        ("sharegpt_lengths_head.csv", "sharegpt", 299),
    ],
)
def test_heads_of_the_real_files_are_read(file: str, format: str, num_requests: int, shared_traces: Path) -> None:
    """The first lines of the published files are told and read whole."""
    path = shared_traces / "samples" / file
    assert detect(path) == format
    assert len(read_trace(path)) == num_requests


def test_the_real_csv_is_the_real_parquet(shared_traces: Path) -> None:
    """The Azure reader and the Parquet copy of the same trace agree on times and lengths."""
    head = read_trace(shared_traces / "samples" / "azure2023_conv_head.csv")
    whole = read_trace(shared_traces / "azure2023_conv.parquet").head(len(head))
    assert head.arrival_s == pytest.approx(whole.arrival_s, abs=1e-5)
    assert (head.input_tokens == whole.input_tokens).all()
    assert (head.output_tokens == whole.output_tokens).all()


def test_every_format_is_tested() -> None:
    """A format that is added to the table needs a sample here."""
    assert set(FORMATS) == {
        "azure", "bailian", "burstgpt", "csv", "mooncake", "parquet", "sharegpt", "vllm-bench"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "places"),
    [
        (AZURE_2024, ["line 2", "line 4"]),
        (MOONCAKE, ["line 1", "line 2", "line 4"]),
        (BAILIAN, ["line 1", "line 2", "line 3", "line 4", "line 5"]),
        (BURSTGPT, ["line 2", "line 4"]),
        (SHAREGPT_LENGTHS, ["line 2", "line 3"]),
        (SHAREGPT, ["conversation 0", "conversation 2"]),
        (VLLM_BENCH, ["row 0", "row 2"]),
        ("arrival_s,input_tokens,output_tokens\n9,1,1\n\n5,2,2\n7,3,3\n", ["line 4", "line 5", "line 2"]),
    ],
)
def test_requests_know_where_they_were_read(text: str, places: list[str], tmp_path: Path) -> None:
    """Also behind rows that were dropped, and after sorting: the place is the file's."""
    path = write(tmp_path, text)
    trace = read_trace(path)
    assert [trace.place(row) for row in range(len(trace))] == [f"{path}, {place}" for place in places]


def test_places_go_with_their_requests(tmp_path: Path) -> None:
    """What is cut, repeated or given other arrivals still says where it is from."""
    path = parquet(tmp_path, arrival_s=[9.0, 5.0, 7.0], input_tokens=[10, 20, 30], output_tokens=[1, 1, 1])
    trace = read_trace(path).repeated(8, seed=3)
    for moved in (trace, trace.with_arrivals(np.arange(8.0)), trace.head(5).at_rate(2.0)):
        wanted = [f"{path}, row {tokens // 10 - 1}" for tokens in moved.input_tokens.tolist()]
        assert [moved.place(row) for row in range(len(moved))] == wanted


def test_times_of_other_zones_are_turned_into_utc(tmp_path: Path) -> None:
    """Without a word of numpy's: warnings are errors here."""
    text = AZURE_2024.replace("00:00:00+00:00", "02:00:00+02:00")
    assert read_trace(write(tmp_path, text)).arrival_s.tolist() == [0.0, 60.0]
