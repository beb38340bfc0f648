"""Timing a model in PyTorch: attention reads the pages that it is told to, and a tiny shape gives a sound profile."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is optional: pip install 'polyslo[torch]'")

from click.testing import CliRunner  # noqa: E402

from polyslo.cli.main import cli  # noqa: E402
from polyslo.measure import torch_times  # noqa: E402
from polyslo.measure.paged_attention import PAGE_TOKENS, attend_gathered, num_splits  # noqa: E402
from polyslo.measure.torch_decoder import Decoder  # noqa: E402
from polyslo.profiles.library import load_profile  # noqa: E402
from polyslo.profiles.shapes import ModelShape  # noqa: E402

TINY = ModelShape("tiny", 64, 2, 4, 2, 16, 96, 128)


@pytest.fixture
def pages():
    """Query, keys, values, table and lengths of three sequences whose pages are scattered."""
    torch.manual_seed(0)
    keys, values = torch.randn(2, 40, PAGE_TOKENS, 2, 16)
    table = torch.randperm(40)[:30].reshape(3, 10)
    return torch.randn(3, 4, 16), keys, values, table, torch.tensor([1, 97, 160])


def _dense(query, keys, values, table, lengths):
    """Attend by the definition, one sequence and head at a time."""
    found = torch.empty_like(query)
    for n in range(len(query)):
        k, v = (cache[table[n]].flatten(0, 1)[: lengths[n]] for cache in (keys, values))
        for head in range(query.shape[1]):
            share = torch.softmax(k[:, head // 2] @ query[n, head] * query.shape[2] ** -0.5, dim=0)
            found[n, head] = share @ v[:, head // 2]
    return found


def test_gathered_pages_are_attended_to_by_the_definition(pages):
    """Grouped heads, scattered pages, lengths that end inside a page."""
    torch.testing.assert_close(attend_gathered(*pages), _dense(*pages), rtol=1e-4, atol=1e-5)


def test_every_page_of_a_sequence_counts_and_no_other(pages):
    """Changing one value in any page that a length reaches changes its answer; other pages change nothing."""
    query, keys, values, table, lengths = pages
    before = attend_gathered(*pages)
    for n, length in enumerate(lengths.tolist()):
        for index, page in enumerate(table[n].tolist()):
            values[page, 0] += 10.0
            moved = (attend_gathered(query, keys, values, table, lengths) - before).abs().amax(dim=(1, 2)) > 1e-6
            values[page, 0] -= 10.0
            assert moved.tolist() == [m == n and index * PAGE_TOKENS < length for m in range(3)]


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_the_kernel_does_what_gathering_does():
    """In Triton's interpreter where there is no GPU: every number of splits gives the same, empty ones too."""
    if torch.cuda.is_available():
        pytest.skip("the interpreter is for machines without a GPU")
    script = (
        "import torch\n"
        "from polyslo.measure.paged_attention import PAGE_TOKENS, attend_gathered, attend_in_place\n"
        "torch.manual_seed(0)\n"
        "keys, values = torch.randn(2, 40, PAGE_TOKENS, 2, 16)\n"
        "table = torch.randperm(40)[:30].reshape(3, 10)\n"
        "query, lengths = torch.randn(3, 4, 16), torch.tensor([1, 97, 160])\n"
        "expected = attend_gathered(query, keys, values, table, lengths)\n"
        "for splits in (1, 2, 5):\n"
        "    found = attend_in_place(query, keys, values, table, lengths, splits)\n"
        "    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)\n"
    )
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_chunk_behind_a_prefix_is_the_prompt_as_a_whole():
    """20 tokens at once, or 12 and then 8, or the last as a decode: the same scores of the next token."""
    torch.manual_seed(0)
    decoder = Decoder(TINY, torch.device("cpu"), torch.float32, 256)
    whole = decoder.batch(0, 0, 20, 0)
    expected = decoder.logits(whole)
    first, second = decoder.batch(0, 0, 12, 0), decoder.batch(0, 0, 8, 12)
    first.tokens[:], second.tokens[:] = whole.tokens[:12], whole.tokens[12:]
    decoder.keys.zero_()
    decoder.logits(first)
    torch.testing.assert_close(decoder.logits(second), expected, rtol=1e-4, atol=1e-5)
    decode = decoder.batch(1, 20, 0, 0)
    decode.tokens[:], decode.table[:] = whole.tokens[19:], torch.tensor([[0, 1]])
    decode.slots[:] = 19
    torch.testing.assert_close(decoder.logits(decode), expected, rtol=1e-4, atol=1e-5)


def test_small_batches_are_split_and_large_ones_are_not():
    """A batch of one fills the GPU; no sequence is split finer than the kernel's block."""
    assert num_splits(1, 8, 132, 32_768) == 64
    assert num_splits(1, 8, 132, 200) == 4
    assert num_splits(256, 8, 132, 32_768) == 1


def test_a_tiny_shape_gives_a_profile_that_can_be_loaded(tmp_path, monkeypatch):
    """The command runs every step, writes what it timed with conditions and noise, and forgets its state."""
    shape = tmp_path / "tiny" / "config.json"
    shape.parent.mkdir()
    shape.write_text(
        '{"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,'
        ' "intermediate_size": 96, "vocab_size": 128}'
    )
    monkeypatch.setattr(torch_times, "_timed", _lawful)
    output = tmp_path / "mine.json"
    options = ["--device", "cpu", "--dtype", "float32", "--kv-tokens", "4096", "--max-decodes", "8", "--max-context",
               "1024", "--max-chunk", "64", "--repeats", "3"]  # fmt: skip
    result = CliRunner().invoke(
        cli, ["profile", "torch", "--shape", str(shape), "--output", str(output), *options], prog_name="polyslo"
    )
    assert result.exit_code == 0, result.output
    named = load_profile(str(output))
    assert named.facts["engine"] == "torch"
    assert "threads, torch" in named.facts["conditions"]
    assert named.facts["noise"]["repeat_worst_ratio"] == 0.0
    assert named.profile.iteration_s(8, 0, 8 * 256, 0.0) == pytest.approx(0.005 + 8e-5 + 8 * 256 * 1e-6, rel=0.01)
    assert named.profile.iteration_s(0, 64, 0.0, 32.0) == pytest.approx(0.005 + 64e-5 + 64 * 32 * 1e-8, rel=0.03)
    assert not list(tmp_path.glob("*.measuring"))


def _lawful(step):
    """Run a step, and say that it took what a law says: the tests' machine may be busy."""
    step()
    batch = step.args[0]
    tokens, pairs = batch.decodes + batch.chunk, batch.chunk * (batch.prefix + batch.chunk / 2)
    return 0.005 + 1e-5 * tokens + 1e-6 * batch.decodes * batch.context + 1e-8 * pairs
