"""Prefill apart from decode through real sockets: two calls a request, one answer, and nothing left behind."""

from __future__ import annotations

import asyncio

import pytest
from gateway_bench import CHAT, COMPLETIONS, MODEL, Bench, ask_for, chat, completion, plain, run

from polyslo.wire.client import Origin

PD = {"mode": "pd"}
ROLES = ("prefill", "decode", "decode")
SAME = (b"x-request-id", b"same")
EXPLAIN = (b"x-polyslo-explain", b"1")


async def settle(bench):
    """Wait until nothing is under way and no KV is kept; then nothing may be left behind."""
    await bench.settle()
    while any(engine.engine.kv_tokens or engine.transfers.num_kept for engine in bench.engines):
        await asyncio.sleep(0.002)


@pytest.mark.parametrize("roles", [None, ROLES], ids=["either", "roles"])
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize(("path", "make"), [(COMPLETIONS, completion), (CHAT, chat)], ids=["completion", "chat"])
def test_an_answer_is_what_one_engine_would_say(path, make, stream, roles):
    """To the byte, the first token and the usage too, though the prefill was elsewhere; counted once."""

    async def main():
        async with Bench(3, model=PD, roles=roles) as bench, Bench() as whole:
            body = make(20, stream=stream, **({"stream_options": {"include_usage": True}} if stream else {}))
            direct = Origin(whole.engines[0].url)
            own = await whole.ask(path, body, [SAME], origin=direct)
            await direct.close()
            ours = await bench.ask(path, body, [SAME, EXPLAIN])
            assert (ours.status, plain(ours.body)) == (200, plain(own.body))
            prefill, decode = ours.header(b"x-polyslo-instance").split(b", ")
            assert prefill != decode
            if roles is not None:
                assert (prefill, decode in (b"e1", b"e2")) == (b"e0", True)
            await settle(bench)
            board = bench.gateway.boards[MODEL]
            assert (board.totals["attained"], board.num_tokens) == (1, 20)
            story = board.story("same")
            assert [step["kind"] for step in story["steps"]].count("transferred") == 1
            prefilled, decoded = (bench.engines[int(name[1:])].engine for name in (prefill, decode))
            assert (prefilled.num_generated_tokens, decoded.num_generated_tokens) == (1, 20)
            metrics = (await bench.get(b"/metrics")).body
            assert b"polyslo_transfers_total{model=" in metrics
            assert b'slo_tier="prefill"' in metrics

    run(main)


def test_many_at_once_leave_nothing_behind_on_either_side():
    """Sixty mixed requests over four engines: each gets its own tokens; then every count is zero again."""

    async def main():
        async with Bench(4, model=PD) as bench:
            await ask_for(bench, [1 + 7 * k % 40 for k in range(60)])
            await settle(bench)
            assert bench.gateway.boards[MODEL].totals["attained"] == 60

    run(main)


def test_a_client_that_leaves_frees_both_sides():
    """Whether it leaves in the prefill, on the way, or while it is answered: no KV is kept, nothing is believed."""

    async def main():
        async with Bench(3, model=PD, speed=0.1) as bench:
            moments = (
                lambda reply: any(engine.engine.num_residents for engine in bench.engines),
                lambda reply: any(engine.transfers._claimed for engine in bench.engines) or reply.body,
                lambda reply: reply.body,
            )
            for has_come in moments:
                reply = bench.send(COMPLETIONS, completion(500, prompt="long " * 2000, stream=True))
                while not has_come(reply):
                    await asyncio.sleep(0.001)
                reply.call.abort()
                await settle(bench)
            assert bench.gateway.boards[MODEL].totals["cancelled"] == 3

    run(main)


@pytest.mark.parametrize("side", ["prefill", "decode"])
def test_a_side_that_fails_is_replaced(side):
    """Before the first token: a prefill that fails goes elsewhere; so does a request whose decode instance is gone."""

    async def main():
        roles = ("prefill", "prefill", "decode", "decode")
        async with Bench(4, model=PD, roles=roles) as bench:
            failing = [Origin(bench.engines[k].url) for k in ((0, 1) if side == "prefill" else (2, 3))]
            for origin in failing[:1]:
                assert (await bench.ask(b"/faults", {"kind": "error", "for_s": 60}, origin=origin)).status == 200
            replies = [bench.send(COMPLETIONS, completion(5, prompt=f"tale {k}")) for k in range(6)]
            for reply in replies:
                await reply.over()
                assert reply.status == 200
            for origin in failing:
                await origin.close()
            await bench.settle()
            assert bench.gateway.boards[MODEL].totals["attained"] == 6

    run(main)


def test_what_cannot_be_split_is_refused():
    """Several answers share one prefill's KV, which is fetched once: a 400 that names the field, before any engine.

    What the prefill engine finds wrong is the request's answer.
    """

    async def main():
        async with Bench(2, model=PD) as bench:
            reply = await bench.ask(COMPLETIONS, completion(5, n=3))
            assert (reply.status, reply.json["error"]["param"]) == (400, "n")
            wrong = await bench.ask(COMPLETIONS, completion(5, logprobs=3))
            assert (wrong.status, wrong.json["error"]["param"]) == (400, "logprobs")
            await settle(bench)
            assert bench.gateway.boards[MODEL].totals["rejected"] == 1

    run(main)


def test_a_client_cannot_name_where_kv_is():
    """`kv_transfer_params` of a client's are replaced on both sides."""

    async def main():
        async with Bench(2, model=PD) as bench:
            stolen = {"do_remote_prefill": True, "remote_host": "192.0.2.1", "remote_port": 9}
            reply = await bench.ask(COMPLETIONS, completion(5, kv_transfer_params=stolen))
            assert (reply.status, reply.json["usage"]["completion_tokens"]) == (200, 5)
            await settle(bench)

    run(main)
