from __future__ import annotations

import base64
import gzip
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from plausible import plausible_comparison, plausible_run, with_goodput

from polyslo.errors import InputError
from polyslo.report.data import from_json, to_json
from polyslo.report.page import comparison_page, run_page
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


@pytest.fixture(scope="module", params=["comparison_html", "run_html"])
def html(request: pytest.FixtureRequest) -> str:
    """Both kinds of page."""
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
    assert len(labels) == outline.tags["svg"] >= 8
    assert all(len(label) > 20 for label in labels)
    assert outline.tags["figcaption"] == outline.tags["figure"]


def test_a_page_has_both_themes(html: str) -> None:
    """The system's theme decides, the switch overrides it, paper is light; every variable is defined."""
    for rule in ("prefers-color-scheme: dark", '[data-theme="dark"]', "@media print"):
        assert rule in html
    defined = set(re.findall(r"(--[\w-]+):", html))
    assert set(re.findall(r"var\((--[\w-]+)\)", html)) <= defined


def attached(html: str) -> Comparison | RunResult:
    """Unpack the data that a page offers for download."""
    (href,) = [value for value in Outline(html).values("href") if value.startswith("data:application/gzip")]
    return from_json(gzip.decompress(base64.b64decode(href.split(",")[1])).decode("utf-8"))


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
    heading = re.search(r"<h1>(.*?)</h1>", comparison_html)
    assert heading is not None
    assert re.sub(r"<[^>]+>", "", heading[1]) == found
    assert f"<title>{found.rstrip('.')}</title>" in comparison_html
    assert "<strong>1.14x</strong>" in heading[1]


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
