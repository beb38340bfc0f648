"""What the page of a real gateway with two models is fed with, over sockets."""

from __future__ import annotations

from urllib.parse import quote

from gateway_bench import COMPLETIONS, MODEL, Bench, completion, run

SECOND = "example/second model"
SIZES = {MODEL: 2, SECOND: 3}
TIERS = {"tpots_ms": [25.0, 50.0]}


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
