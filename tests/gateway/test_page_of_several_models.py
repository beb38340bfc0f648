"""The page before a real gateway of two models: what it is fed with over sockets, and what a browser makes of it."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

import pytest
from chromium import Page, find_chromium, open_chromium
from gateway_bench import COMPLETIONS, MODEL, Bench, completion, run

CHROMIUM = find_chromium()
SECOND = "example/second model"
SIZES = {MODEL: 2, SECOND: 3}
BROWSER_HANG_S = 300.0  # only so that a hang fails instead of hanging
TIERS = {"tpots_ms": [25.0, 50.0]}
IS_LIVE = "document.body?.dataset.link === 'live'"
TEXTS = "[...document.querySelectorAll('{}')].map((node) => node.textContent)"


def two_models() -> Bench:
    """Return a gateway with two engines of one model and three of another."""
    return Bench(SIZES[MODEL], others={SECOND: SIZES[SECOND]}, tiers=TIERS)


async def stream(bench: Bench, model: str, request_id: str, tokens: int) -> None:
    """Send a streamed request to a model and see it end."""
    body = {**completion(tokens, stream=True), "model": model}
    reply = await bench.ask(COMPLETIONS, body, [(b"x-request-id", request_id.encode())])
    assert (reply.status, reply.failure) == (200, None)


def of(path: str, model: str) -> bytes:
    """Return the path that asks about a model."""
    return f"{path}?model={quote(model, safe='')}".encode()


def test_each_model_has_its_own_state():
    """The first one's without a name; a stream of events is of one model; a name that is none is a 404."""

    async def main():
        async with two_models() as bench:
            await stream(bench, SECOND, "b", 6)
            for path, model in ((b"/state", MODEL), (of("/state", MODEL), MODEL), (of("/state", SECOND), SECOND)):
                state = (await bench.get(path)).json
                assert state["model"] == model
                assert len(state["instances"]) == SIZES[model]
                assert state["totals"]["requests"] == (model == SECOND)
                assert [each["name"] for each in state["models"]] == [MODEL, SECOND]
            events = {
                model: bench.send(of("/events", model), method=b"GET", origin=bench.management) for model in SIZES
            }
            for model, reply in events.items():
                await reply.until(lambda reply: reply.body.count(b"\n\n") >= 2)  # the first, and one that followed
                other = next(each for each in SIZES if each != model)
                assert reply.body.count(b'"model":"%b"' % model.encode()) == reply.body.count(b"\n\n")
                assert b'"model":"%b"' % other.encode() not in reply.body
                reply.call.abort()
            for path in (b"/state?model=third", b"/events?model=third", b"/requests/b?model=third"):
                refused = await bench.get(path)
                assert (refused.status, refused.code) == (404, "model_not_found")

    run(main)


def test_a_story_is_of_the_model_that_is_asked_about():
    """Clients choose ids: of two requests of one id that model's comes first; an id of one model only is found."""

    async def main():
        async with two_models() as bench:
            await stream(bench, MODEL, "same", 5)
            await stream(bench, SECOND, "same", 7)
            await stream(bench, SECOND, "own", 3)
            for path, told in (
                (of("/requests/same", MODEL), (MODEL, 5)),
                (of("/requests/same", SECOND), (SECOND, 7)),
                (of("/requests/own", MODEL), (SECOND, 3)),
            ):
                story = (await bench.get(path)).json
                assert (story["model"], story["output_tokens"]) == told

    run(main)


def test_slots_without_an_instance_are_no_instances_of_a_tier():
    """A policy without an idle pool has them all in one group: page and metrics count who is there."""

    async def main():
        async with Bench(2, model={"policy": "minimal", "max_instances": 7}, tiers=TIERS) as bench:
            owned = [tier["num_instances"] for tier in (await bench.get(b"/state")).json["tiers"]]
            lines = (await bench.get(b"/metrics")).body.decode().splitlines()
            told = [float(line.split()[-1]) for line in lines if line.startswith("polyslo_tier_instances{")]
            assert sum(owned) == sum(told) == 2

    run(main)


def look_at(page: Page, url: str, model: str, requests: dict[str, int]) -> None:
    """See a model's instances, tiers and requests, and the story of each request on a click."""
    page.open(f"{url}#model={quote(model, safe='')}")
    page.wait(IS_LIVE)
    page.wait(f"document.querySelectorAll('#recent tbody tr').length === {len(requests)}")
    assert page.ask(TEXTS.format("#model option")) == [MODEL, SECOND]
    assert page.ask("document.getElementById('model').value") == model
    assert page.ask(TEXTS.format("#rows .tier h3")) == ["25 ms", "50 ms"]
    assert page.ask("document.querySelectorAll('#rows .bar').length") == SIZES[model]
    assert sorted(page.ask(TEXTS.format("#recent .reference"))) == sorted(requests)
    for request_id, tokens in requests.items():
        page.ask(f"[...document.querySelectorAll('#recent .reference')].find("
                 f"(node) => node.textContent === '{request_id}').click()")  # fmt: skip
        page.wait(f"document.querySelector('#story h3')?.textContent === '{request_id}'")
        assert page.ask("document.querySelector('#story .outcome').textContent") == "attained its SLO"
        assert page.ask(TEXTS.format("#story .steps b")) == ["Arrived", "Placed", "First token", "Ended in time"]
        assert f"{tokens} out" in page.ask("document.querySelector('#story .facts').textContent")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path")
def test_a_browser_shows_both_models_of_a_real_gateway():
    """Instances, tiers, requests and stories of each; another model's instance is shown with its own model."""
    assert CHROMIUM is not None
    requests = {MODEL: {"a-0": 4, "a-1": 9}, SECOND: {"b-0": 6, "b-1": 12, "b-2": 3}}

    def look(url: str) -> None:
        with open_chromium(CHROMIUM) as page:
            for model, sent in requests.items():
                look_at(page, url, model, sent)
            page.ask("document.getElementById('search-id').value = 'a-0'")
            page.ask("document.getElementById('search').requestSubmit()")
            page.wait("document.querySelector('#story h3').textContent === 'a-0'")
            page.ask("document.querySelector('#story .steps .reference').click()")
            page.wait(f"document.getElementById('model').value === '{MODEL}'")
            page.wait(f"document.querySelectorAll('#rows .bar').length === {SIZES[MODEL]}")
            page.wait("!document.getElementById('card').hidden")
            assert page.complaints == []

    async def main():
        async with two_models() as bench:
            for model, sent in requests.items():
                for request_id, tokens in sent.items():
                    await stream(bench, model, request_id, tokens)
            url = f"http://localhost:{bench.gateway.management_listener.port}/"
            await asyncio.to_thread(look, url)
            await bench.settle()

    run(main, hang_s=BROWSER_HANG_S)
