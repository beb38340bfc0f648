"""The live page in a real browser, against synthetic fleets."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from chromium import Page, find_chromium, open_chromium
from page_demo import DemoServer
from synthetic_fleet import TPOTS_MS, SyntheticFleet

CHROMIUM = find_chromium()

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path")

IS_LIVE = "document.body?.dataset.link === 'live'"

# Every piece of text outside the scrolling lists, with its box; boxes that share more than a line's leading overlap.
OVERLAPS = """(() => {
  const walker = document.createTreeWalker(document.querySelector('.page'), NodeFilter.SHOW_TEXT);
  const boxes = [];
  while (walker.nextNode()) {
    const node = walker.currentNode;
    const parent = node.parentElement;
    const isApart = parent.closest('.unseen, .bar, option, noscript, .feed, .recent');
    if (!node.data.trim() || isApart || !parent.checkVisibility()) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const box of range.getClientRects()) boxes.push({ text: node.data, ...box.toJSON() });
  }
  const found = [];
  boxes.forEach((a, i) => boxes.slice(i + 1).forEach((b) => {
    const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (wide > 1 && high > 3) found.push(`${a.text} | ${b.text}`);
  }));
  const edge = document.documentElement.clientWidth + 1;
  for (const box of boxes) if (box.right > edge) found.push(`${box.text} leaves the window`);
  return found;
})()"""


OTHERS = [SyntheticFleet(3, model="example/a b")]
CHOOSE_SECOND = """(() => {
  const select = document.getElementById('model');
  select.selectedIndex = 1;
  select.dispatchEvent(new Event('change'));
})()"""


@dataclass(frozen=True, slots=True)
class HostileFleet(SyntheticFleet):
    """Every string that a client or an engine can choose is markup."""

    def state(self, unix_s: float) -> dict[str, Any]:
        """Put markup into names, ids and texts."""
        mark = "<img src=x onerror=alert(1)><script>alert(2)</script>"
        state = SyntheticFleet.state(self, unix_s)
        state["model"] = mark
        for each in (*state["instances"], *state["models"]):
            each["name"] = mark
        for each in state["events"]:
            each["text"] = mark
        for each in state["requests"]:
            each["id"] = mark
        return state


@dataclass(frozen=True, slots=True)
class StuckFleet(SyntheticFleet):
    """Answers, but always with the same moment."""

    def state(self, unix_s: float) -> dict[str, Any]:
        """Repeat one snapshot."""
        return SyntheticFleet.state(self, self.started_unix_s + 7300.0)


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """One browser for all tests of this file."""
    assert CHROMIUM is not None
    with open_chromium(CHROMIUM) as opened:
        yield opened


@contextmanager
def serving(fleet: SyntheticFleet, others: Sequence[SyntheticFleet] = ()) -> Iterator[DemoServer]:
    """Serve a fleet, and those of further models, on a free port."""
    server = DemoServer(fleet, others=others)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def showing(
    page: Page, fleet: SyntheticFleet, hash_: str = "", others: Sequence[SyntheticFleet] = (), **window: Any
) -> Iterator[DemoServer]:
    """Show a fleet until it is live; whatever the console says against it fails the test."""
    page.complaints.clear()
    with serving(fleet, others) as server:
        page.open(server.url + hash_, **window)
        page.wait(IS_LIVE)
        yield server
        assert page.complaints == []
        page.call("Page.navigate", url="about:blank")


def test_every_instance_is_a_bar_in_its_row(page: Page) -> None:
    """Tiers are rows in order, and each instance is one bar, the most loaded first."""
    with showing(page, SyntheticFleet(20)):
        names = page.ask("[...document.querySelectorAll('#rows .tier h3')].map((node) => node.textContent)")
        assert names == [f"{tpot_ms:g} ms" for tpot_ms in TPOTS_MS]
        assert page.ask("document.querySelectorAll('#rows .bar').length") == 20
        assert page.ask("document.querySelector('#rows .idle h3').textContent") == "Idle pool"
        assert page.ask("document.querySelectorAll('#headline > div').length") == 6


def test_the_page_asks_its_own_origin_only(page: Page) -> None:
    """All that is loaded comes from the gateway, and all of it is there."""
    with showing(page, SyntheticFleet(2)) as server:
        loaded = page.ask("performance.getEntriesByType('resource').map((entry) => entry.name)")
        assert loaded
        assert all(name.startswith(server.url) for name in loaded)


def test_strings_from_outside_stay_text(page: Page) -> None:
    """Names, ids and texts that are markup are shown as they are."""
    with showing(page, HostileFleet(4), "#instance=0", [SyntheticFleet(2)]):
        page.wait("!document.getElementById('card').hidden")
        assert page.ask("document.querySelectorAll('img, main script').length") == 0
        assert page.ask("document.querySelector('#feed p').textContent.includes('<img')")
        assert page.ask("document.querySelector('#card .address').textContent.startsWith('<img')")
        assert page.ask("document.querySelector('#model option').textContent.startsWith('<img')")


def test_pointing_shows_an_instance_and_a_click_keeps_it(page: Page) -> None:
    """The card follows the mouse; after a click it stays, and the address names the instance."""
    with showing(page, SyntheticFleet(20)):
        x, y = page.ask(
            "(({ x, y }) => [x + 5, y + 40])(document.querySelector('#rows .lane').getBoundingClientRect())"
        )
        page.point(x, y)
        page.wait("!document.getElementById('card').hidden")
        assert page.ask("document.querySelector('#card h3').textContent") == "Instance 0"
        page.point(x, y, is_click=True)
        page.point(1, 1)
        page.wait("location.hash === '#instance=0'")
        assert page.ask("!document.getElementById('card').hidden")
        page.press("Escape")
        page.wait("document.getElementById('card').hidden && location.hash === ''")


def test_the_keyboard_reaches_every_instance(page: Page) -> None:
    """A lane is one stop of Tab; arrows, Home and End move in it, Enter keeps."""
    with showing(page, SyntheticFleet(20)):
        page.ask("document.getElementById('theme').focus()")
        page.press("Tab")
        assert page.ask("document.activeElement.getAttribute('role')") == "listbox"
        assert page.ask("document.activeElement.getAttribute('aria-activedescendant')") == "instance-0"
        page.press("ArrowRight")
        assert page.ask("document.activeElement.getAttribute('aria-activedescendant')") == "instance-1"
        assert page.ask("!document.getElementById('card').hidden")
        page.press("Enter")
        page.wait("location.hash === '#instance=1'")
        assert page.ask("document.getElementById('instance-1').getAttribute('aria-selected')") == "true"


def test_a_search_tells_a_requests_story(page: Page) -> None:
    """A searched id opens its story: whether it attained, its deadline, and its steps with refusals counted."""
    with showing(page, SyntheticFleet(20)):
        page.ask("document.getElementById('search-id').value = 'req-00000010'")
        page.ask("document.getElementById('search').requestSubmit()")
        page.wait("document.querySelector('#story .steps')")
        assert page.ask("document.querySelector('#story .outcome').textContent") == "missed its SLO"
        assert page.ask("document.querySelector('#story .due').textContent") == "due 500 ms"
        steps = page.ask("[...document.querySelectorAll('#story .steps b')].map((node) => node.textContent)")
        assert steps == ["Arrived", "Refused by", "Pended", "Placed", "First token", "Ended"]
        assert page.ask("document.querySelector('#story .steps').textContent.includes('first_token 3\\u00d7')")


def test_a_story_under_way_shows_its_deadline(page: Page) -> None:
    """A request without a first token has a story too: it waits, and its deadline lies ahead."""
    with showing(page, SyntheticFleet(20), "#request=req-00000015"):
        page.wait("document.querySelector('#story .steps')")
        assert page.ask("document.querySelector('#story .outcome').textContent") == "under way"
        assert page.ask("document.querySelectorAll('#story .span.waits').length") == 1
        assert page.ask("document.querySelectorAll('#story .came, #story .lateness').length") == 0


def test_best_effort_is_told_apart(page: Page) -> None:
    """Its story promises nothing and judges nothing; what runs of it is beside the tiers' requests."""
    with showing(page, SyntheticFleet(20), "#request=req-00000017"):
        page.wait("document.querySelector('#story .steps')")
        assert page.ask("document.querySelector('#story .outcome').textContent") == "served, best effort"
        assert page.ask("document.querySelector('#story .facts').textContent").startswith("best effort: no SLO")
        assert page.ask("document.querySelectorAll('#story .times, #story .lateness').length") == 0
        assert "best effort: 3 running, 0 waiting" in page.ask("document.querySelector('.row.idle').textContent")


def test_an_unknown_request_is_said_to_be_unknown(page: Page) -> None:
    """A 404 becomes words that say what to do; the address keeps the id."""
    with serving(SyntheticFleet(2)) as server:
        page.open(server.url + "#request=nobody")
        page.wait("document.querySelector('#story .outcome')?.textContent === 'No story'")
        page.call("Page.navigate", url="about:blank")
    page.complaints.clear()  # the browser itself reports the 404


def test_an_instance_chosen_in_a_story_comes_into_the_window(page: Page) -> None:
    """The story lies far below the bars: a click on its instance shows the bar and its card."""
    with showing(page, SyntheticFleet(20), "#request=req-00000010"):
        page.wait("document.querySelector('#story .steps')")
        page.ask("document.querySelector('#story .steps li:last-child').scrollIntoView()")
        page.wait("document.getElementById('instance-0').getBoundingClientRect().bottom < 0")
        page.ask("document.querySelector('#story .steps .reference').click()")
        page.wait(
            "[...document.querySelectorAll('#instance-0, #card')].every((node) => "
            "(({ top, bottom, height }) => height > 0 && top >= 0 && bottom <= innerHeight)"
            "(node.getBoundingClientRect()))"
        )


def test_one_model_is_no_choice(page: Page) -> None:
    """Where there is nothing to choose nothing is offered; the line of facts names the model."""
    with showing(page, SyntheticFleet(2)):
        assert page.ask("document.getElementById('model-choice').hidden")
        assert page.ask("document.getElementById('facts').textContent.includes('Llama-3.1-8B-Instruct (')")


def test_a_model_can_be_chosen_and_the_address_keeps_it(page: Page) -> None:
    """Everything shown is the other model's, live; what was looked at of the first one is not."""
    with showing(page, SyntheticFleet(20), "#request=req-00000010&instance=0", OTHERS):
        page.wait("!document.getElementById('card').hidden")
        assert page.ask("document.getElementById('model').value") == SyntheticFleet(20).model
        page.ask(CHOOSE_SECOND)
        page.wait(IS_LIVE)
        page.wait("document.querySelectorAll('#rows .bar').length === 3")
        assert page.ask("location.hash") == "#model=example%2Fa+b"
        assert page.ask("document.getElementById('card').hidden && document.getElementById('story').hidden")
        assert page.ask("document.title.includes('example/a b')")
        page.wait("document.getElementById('link-text').textContent === 'Live'")  # the stream's news, not an answer's
        assert page.ask("document.querySelectorAll('#rows .bar').length") == 3
        assert page.ask("fetch(document.getElementById('state-link').href).then((each) => each.json())"
                        ".then((state) => state.instances.length)") == 3  # fmt: skip


def test_a_link_names_its_model(page: Page) -> None:
    """What someone was sent opens with the model, the instance and the story that it names."""
    with showing(page, SyntheticFleet(20), "#model=example%2Fa+b&request=req-00000010&instance=2", OTHERS):
        page.wait("document.querySelector('#story .steps')")
        assert page.ask("document.getElementById('model').value") == "example/a b"
        assert page.ask("document.querySelectorAll('#rows .bar').length") == 3
        assert page.ask("document.querySelector('#card h3').textContent") == "Instance 2"
        assert page.ask("document.querySelector('#story .facts').textContent.endsWith('example/a b')")


def test_a_link_to_a_model_that_is_not_there_says_so(page: Page) -> None:
    """The first model is shown instead, with a word; choosing a model takes the word away."""
    with serving(SyntheticFleet(20), OTHERS) as server:
        page.open(server.url + "#model=gone")
        page.wait(IS_LIVE)
        assert page.ask("document.getElementById('astray').textContent").startswith("This gateway has no model gone;")
        assert page.ask("document.querySelectorAll('#rows .bar').length") == 20
        assert page.ask("location.hash") == ""
        page.ask(CHOOSE_SECOND)
        page.wait("document.getElementById('astray').hidden")
        page.call("Page.navigate", url="about:blank")
    page.complaints.clear()  # the browser itself reports the 404


def test_filters_choose_events(page: Page) -> None:
    """A kind that is switched off leaves the feed; all of them off is said."""
    with showing(page, SyntheticFleet(20)):
        page.wait("document.querySelectorAll('#feed .promotion').length > 0")
        page.ask("document.querySelectorAll('.filter')[1].click()")
        assert page.ask("document.querySelectorAll('#feed .promotion').length") == 0
        page.ask("document.querySelectorAll('.filter[aria-pressed=true]').forEach((button) => button.click())")
        assert page.ask("document.getElementById('events-empty').textContent") == "No event passes these filters."


def test_a_fleet_without_instances_says_how_to_give_it_some(page: Page) -> None:
    """An empty gateway explains its start option and its endpoint."""
    with showing(page, SyntheticFleet(0, has_traffic=False)):
        assert page.ask("document.getElementById('verdict').textContent") == "No instances yet."
        assert page.ask("document.getElementById('fleet-empty').textContent.includes('--worker-urls')")


def test_a_fleet_without_traffic_says_how_to_send_a_request(page: Page) -> None:
    """A gateway that nobody has used shows a command for the first request."""
    with showing(page, SyntheticFleet(4, has_traffic=False)):
        assert page.ask("document.getElementById('requests-empty').textContent.includes('x-slo-ttft-ms')")
        assert page.ask("document.getElementById('verdict').textContent") == "Ready. Waiting for the first request."


def test_the_theme_can_be_chosen(page: Page) -> None:
    """The button turns a light page dark, and back to what the system wants."""
    with showing(page, SyntheticFleet(2)):
        ground = "getComputedStyle(document.body).backgroundColor"
        assert page.ask(ground) == "rgb(253, 252, 249)"
        page.ask("document.getElementById('theme').click()")
        assert page.ask(ground) == "rgb(21, 23, 26)"
        page.ask("document.getElementById('theme').click()")
        assert page.ask("document.documentElement.dataset.theme ?? 'the system decides'") == "the system decides"


@pytest.mark.parametrize("num_instances", [2, 20, 500])
@pytest.mark.parametrize("width", [360, 390, 720, 768, 1099, 1280, 1500, 1920, 2560])
def test_no_two_texts_overlap(page: Page, num_instances: int, width: int) -> None:
    """At every width and size of fleet each text has its own place, inside the window."""
    with showing(page, SyntheticFleet(num_instances), "#request=req-00000010", width=width, height=900):
        page.wait("document.querySelector('#story .steps')")
        assert page.ask(OVERLAPS) == []
        assert page.ask("document.querySelectorAll('#rows .bar').length") == num_instances


@pytest.mark.parametrize("width", [360, 640, 641, 720, 1099, 1100, 1500])
def test_a_long_name_finds_its_place(page: Page, width: int) -> None:
    """The choice of the model stays in the window and beside nothing that it covers, however long a name is."""
    named = SyntheticFleet(2, model="example/" + "a-model-of-many-words-" * 9)
    with showing(page, SyntheticFleet(20), "#model=example/nobody-" + "ever-" * 40, [named], width=width, height=900):
        assert page.ask(OVERLAPS) == []
        boxes = page.ask(
            "[...document.querySelectorAll('.top > :not([hidden])')].map((node) => node.getBoundingClientRect())"
            ".map(({ left, right, top, bottom }) => [left, right, top, bottom])"
        )
        assert all(right <= width for _, right, _, _ in boxes)
        for i, one in enumerate(boxes):
            for other in boxes[i + 1 :]:
                is_beside = one[1] <= other[0] + 1 or other[1] <= one[0] + 1
                assert is_beside or one[3] <= other[2] + 1 or other[3] <= one[2] + 1, (one, other)
        page.complaints.clear()  # the browser itself reports the 404


@pytest.mark.slow
def test_a_silent_gateway_is_noticed_and_a_returning_one_too(page: Page) -> None:
    """When the gateway goes, the page says so and keeps trying; when it comes back, the page is live again."""
    with serving(SyntheticFleet(2)) as server:
        page.open(server.url)
        page.wait(IS_LIVE)
        port = server.server_address[1]
    page.wait("document.body.dataset.link === 'lost'")
    assert "cannot be reached" in page.ask("document.getElementById('notice').textContent")
    again = DemoServer(SyntheticFleet(2), port)
    thread = threading.Thread(target=again.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    page.wait(IS_LIVE)
    assert page.ask("document.getElementById('notice').hidden")
    page.call("Page.navigate", url="about:blank")
    again.shutdown()
    again.server_close()
    thread.join()
    page.complaints.clear()  # the browser itself reports refused connections


@pytest.mark.slow
def test_a_gateway_that_repeats_itself_is_stale(page: Page) -> None:
    """Snapshots that all tell of one moment are no news, however often they come."""
    with showing(page, StuckFleet(2)):
        page.wait("document.body.dataset.link === 'stale'")
        assert "is silent" in page.ask("document.getElementById('notice').textContent")
