from __future__ import annotations

import base64
import gzip
import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from plausible import plausible_comparison, plausible_goodputs, plausible_plan, plausible_run, with_goodput

from polyslo.errors import InputError
from polyslo.report.data import from_json, to_json
from polyslo.report.page import comparison_page, goodput_page, plan_page, run_page
from polyslo.report.verdict import headline
from polyslo.sim.results import Comparison, RunResult

VOID = {"meta", "br", "img", "link", "hr", "input"}
MARK = "<script>alert('x')</script>&\"quoted\""


class Outline(HTMLParser):
    """Checks that tags nest, and collects ids, references, headings and text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember a tag that has to be closed."""
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Count a tag that closes itself."""
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        """Check that a closing tag closes the innermost open one."""
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Collect what a reader sees, and the styles and script."""
        self.text.append(data)

    def values(self, name: str) -> list[str]:
        """Values of one attribute, in order."""
        return [value for _, found, value in self.attributes if found == name]


@pytest.fixture(scope="module", params=["comparison_html", "run_html", "goodput_html", "plan_html"])
def html(request: pytest.FixtureRequest) -> str:
    """Every kind of page."""
    return str(request.getfixturevalue(request.param))


def test_a_page_is_well_formed(html: str) -> None:
    """Tags nest, ids are unique, and references within the page find their target."""
    outline = Outline(html)
    ids = outline.values("id")
    assert len(ids) == len(set(ids))
    inner = re.findall(r"url\(#([^)]+)\)", html) + [v[1:] for v in outline.values("href") if v.startswith("#")]
    assert set(inner) <= set(ids)
    assert outline.tags["h1"] == 1
    assert outline.tags["main"] == 1


def test_a_page_needs_nothing_from_outside(html: str) -> None:
    """No address of any kind but the attached data, and less than a megabyte."""
    outline = Outline(html)
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\((?!#)", html)
    assert all(v.startswith(("#", "data:")) for v in outline.values("href") + outline.values("src"))
    assert len(html.encode("utf-8")) < 1_000_000


def test_every_figure_is_told_in_words(html: str) -> None:
    """Each drawing has a label for those who can't see it, and each figure a caption."""
    outline = Outline(html)
    labels = [value for tag, name, value in outline.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(labels) == outline.tags["svg"] >= 2
    assert all(len(label) > 20 for label in labels)
    assert outline.tags["figcaption"] == outline.tags["figure"]


def test_a_page_has_both_themes(html: str) -> None:
    """The system's theme decides, the switch overrides it, paper is light; every variable is defined."""
    for rule in ("prefers-color-scheme: dark", '[data-theme="dark"]', "@media print"):
        assert rule in html
    defined = set(re.findall(r"(--[\w-]+):", html))
    assert set(re.findall(r"var\((--[\w-]+)\)", html)) <= defined


def attached_text(html: str) -> str:
    """Unpack the data that a page offers for download."""
    (href,) = [value for value in Outline(html).values("href") if value.startswith("data:application/gzip")]
    return gzip.decompress(base64.b64decode(href.split(",")[1])).decode("utf-8")


def attached(html: str) -> Comparison | RunResult:
    """Read the result that a page offers for download."""
    return from_json(attached_text(html))


def heading(html: str) -> str:
    """Return the text of a page's main heading."""
    found = re.search(r"<h1>(.*?)</h1>", html)
    assert found is not None
    return re.sub(r"<[^>]+>", "", found[1])


def test_a_comparison_carries_its_runs(comparison: Comparison, comparison_html: str) -> None:
    """The attached data is the comparison, without timelines."""
    bare = replace(comparison, runs=tuple(replace(run, timeline=None) for run in comparison.runs))
    assert attached(comparison_html) == bare


def test_a_run_carries_its_timeline(run: RunResult, run_html: str) -> None:
    """The attached data is the run with its timeline."""
    assert to_json(attached(run_html)) == to_json(run)


def test_the_page_opens_with_the_headline(comparison: Comparison, comparison_html: str) -> None:
    """The title and the main heading are the sentence computed from the numbers."""
    found = headline(comparison)
    assert heading(comparison_html) == found
    assert f"<title>{found.rstrip('.')}</title>" in comparison_html
    assert "<strong>1.14x</strong>" in comparison_html


def test_the_setting_and_the_definitions_are_told(comparison: Comparison, comparison_html: str) -> None:
    """Workload, profile, seeds and notes are on the page, and the words it uses are defined."""
    text = " ".join(Outline(comparison_html).text)
    for told in (comparison.workload, comparison.profile, "1, 2, 3", *comparison.notes):
        assert told in text
    for term in ("Attainment", "Goodput", "DSLO", "Tier", "Fluid optimum"):
        assert f"<dt>{term}</dt>" in comparison_html


def test_losses_have_a_section_of_their_own() -> None:
    """A page where polyserve loses says where, under a heading that says so."""
    comparison = plausible_comparison({"polyserve": 330.0, "chunk": 400.0}, with_timeline=False)
    html = comparison_page(comparison)
    assert "Where polyserve loses" in html
    assert "Goodput at 99% attainment: 330 requests/s against 400 for chunk." in html


def test_strings_from_outside_are_escaped() -> None:
    """A workload, policy, profile, note or reason that looks like markup is shown, not run."""
    comparison = plausible_comparison({"polyserve": 400.0, MARK: 350.0}, with_timeline=False)
    html = comparison_page(replace(comparison, workload=MARK, profile=MARK, notes=(MARK,)))
    assert Outline(html).tags["script"] == 1
    run = replace(plausible_run(), policy=MARK, workload=MARK, refusals_by_reason={MARK: 3})
    assert Outline(run_page(run)).tags["script"] == 1
    assert Outline(goodput_page(plausible_goodputs({MARK: 350.0}))).tags["script"] == 1
    assert Outline(plan_page(plausible_plan({MARK: 20}), [MARK])).tags["script"] == 1


def test_the_same_results_give_the_same_page(comparison: Comparison, comparison_html: str) -> None:
    """Pages can be compared, cached and committed: no dates, no random ids."""
    assert comparison_page(comparison) == comparison_html


def test_a_sparse_comparison_still_makes_a_page(comparison: Comparison) -> None:
    """One policy, one rate, one seed, no goodput, no optimum, no timeline: a page, with less on it."""
    run = replace(plausible_run("chunk"), timeline=None)
    sparse = replace(
        comparison,
        policies=("chunk",),
        rates_rps=(350.0,),
        runs=(run,),
        goodputs=(),
        optimum_rps=None,
        notes=(),
    )
    assert "No goodput was computed" in comparison_page(sparse)
    assert "No timeline was recorded" in run_page(run)


def test_a_target_that_nobody_reaches_is_a_dash(comparison: Comparison) -> None:
    """Goodput figures and tables survive policies that never attain the target."""
    lost = comparison
    for policy in comparison.policies:
        lost = with_goodput(lost, policy, 0.99)
    assert "polyserve does not reach 99% attainment at any rate, nor does a baseline" in comparison_page(lost)


def test_a_comparison_without_runs_is_refused(comparison: Comparison) -> None:
    """There is no page about nothing."""
    with pytest.raises(InputError, match="no runs"):
        comparison_page(replace(comparison, runs=()))


def test_rates_that_only_some_policies_were_run_at(comparison: Comparison) -> None:
    """A comparison with further rates for one policy still makes a page, and its lower bounds are marked."""
    runs = tuple(run for run in comparison.runs if run.policy == "polyserve" or run.rate_rps < 450)
    goodputs = tuple(replace(g, is_lower_bound=g.policy == "polyserve") for g in comparison.goodputs)
    html = comparison_page(replace(comparison, runs=runs, goodputs=goodputs))
    assert "≥ 402" in html


def test_one_seed_has_no_interval_on_the_page(comparison: Comparison) -> None:
    """No column and no whisker pretends to one."""
    html = comparison_page(replace(comparison, runs=tuple(run for run in comparison.runs if run.seed == 1)))
    assert "one seed, hence no confidence interval" in html
    assert "95% interval" not in html


def test_nothing_pending_is_a_sentence(run: RunResult) -> None:
    """Empty panels show nothing: a run that never made a request wait says so."""
    assert run.timeline is not None
    idle = replace(run.timeline, pending=tuple((0,) * len(counts) for counts in run.timeline.pending))
    assert "No request was found pending" in run_page(replace(run, timeline=idle))
    assert "No request was found pending" not in run_page(run)


def test_goodputs_say_who_serves_what(goodput_html: str) -> None:
    """The headline has polyserve and the best of the others, with their shares of the fluid optimum."""
    assert heading(goodput_html) == (
        "polyserve serves 402 requests/s at 99% attainment (94.1% of the fluid optimum); polyserve-keep 371 (86.8%)."
    )
    assert "polyserve serves 1.14x the load of the best baseline (chunk) at 99% attainment." in goodput_html


def test_goodputs_carry_themselves_and_every_seed(goodput_html: str) -> None:
    """The attached data is what was found; the page shows each seed's rate."""
    assert attached(goodput_html) == plausible_goodputs()
    assert "<td>398</td><td>402</td><td>406</td>" in goodput_html


def test_goodputs_of_one_seed_have_no_interval() -> None:
    """No column, no whisker and no table of seeds pretends to more."""
    several = plausible_goodputs()
    html = goodput_page(replace(several, goodputs=tuple(replace(g, per_seed_rps=(402.0,)) for g in several.goodputs)))
    assert "one seed, hence no confidence interval" in html
    assert "95% interval" not in html
    assert "whisker" not in html
    assert "Seed by seed" not in html


def test_goodputs_that_are_lower_bounds_are_marked() -> None:
    """In the headline, the table and the figure."""
    several = plausible_goodputs()
    html = goodput_page(replace(several, goodputs=tuple(replace(g, is_lower_bound=True) for g in several.goodputs)))
    assert heading(html).startswith("polyserve serves ≥ 402 requests/s")
    assert html.count("≥ 402") > 2


def test_goodputs_that_nobody_reaches_still_make_a_page() -> None:
    """Dashes, and a headline that says so; without polyserve the best policy leads."""
    lost = plausible_goodputs()
    for policy in lost.policies:
        lost = with_goodput(lost, policy, 0.99, 0.0, 0.0)
    assert heading(goodput_page(lost)) == "No policy reaches 99% attainment at any rate on azure-conversation."
    others = plausible_goodputs({"random": 300.0, "chunk": 350.0})
    assert heading(goodput_page(others)).startswith("chunk serves 350 requests/s at 99% attainment")


@pytest.mark.parametrize(
    ("sizes", "found"),
    [
        (
            {"polyserve": 20, "static-tiers": 23, "chunk": 22},
            "20 {} polyserve, 2 fewer than the next best policy (chunk).",
        ),
        ({"polyserve": 24, "chunk": 22}, "22 {} chunk, 2 fewer than the next best policy (polyserve)."),
        ({"chunk": 20, "polyserve": 20}, "20 {} polyserve as with chunk."),
        ({"polyserve": 20}, "20 {} polyserve."),
    ],
)
def test_a_plan_says_how_small_a_fleet_is_enough(sizes: dict[str, int], found: str) -> None:
    """Wins, losses and ties are told alike."""
    html = plan_page(plausible_plan(sizes))
    assert heading(html) == found.format("instances hold 99% attainment at 350 requests/s with")
    assert ("polyserve needs 2 more than the best policy" in html) == (sizes["polyserve"] == 24)


def test_a_plan_tells_what_each_tier_owns(plan_html: str) -> None:
    """By tier and idle; a policy without tiers owns all at once; prefill where it is apart; notes and data."""
    text = " ".join(Outline(plan_html).text)
    for told in ("16.4 instances; of the 20 of polyserve, 18.0 are in use", "any tier", "idle", "Arrivals: poisson."):
        assert told in text
    assert "prefill</th>" not in plan_html
    assert "prefill</th>" in plan_page(plausible_plan(mode="pd"))
    assert [fleet["num_instances"] for fleet in json.loads(attached_text(plan_html))] == [20, 23, 22]


def test_fleets_may_differ_in_their_tiers() -> None:
    """Where tiers are learned for a size, a tier has one colour and one key in all fleets."""
    one, other = plausible_plan({"polyserve": 20, "static-tiers": 23})
    fewer = tuple(replace(run, tiers=run.tiers[1:]) for run in other.runs)
    html = plan_page([one, replace(other, runs=fewer)])
    assert "tiers 20/30/50/100 ms" in html


def test_pages_about_nothing_are_refused() -> None:
    """Without a goodput or a fleet there is nothing to say."""
    with pytest.raises(InputError, match="no goodputs"):
        goodput_page(replace(plausible_goodputs(), goodputs=()))
    with pytest.raises(InputError, match="no fleets"):
        plan_page([])


def test_lists_of_results_become_data_frames() -> None:
    """`pandas.DataFrame` takes them as they are: a row a policy."""
    pandas = pytest.importorskip("pandas")
    assert list(pandas.DataFrame(plausible_goodputs().goodputs)["policy"]) == list(plausible_goodputs().policies)
    assert list(pandas.DataFrame(plausible_plan())["num_instances"]) == [20, 23, 22]
