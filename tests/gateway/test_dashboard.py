"""Dashboard and alert rules: each expression names only what the gateway exports, both have their right shape."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from promql import read_expression

from polyslo.cli.main import cli
from polyslo.gateway.app import Gateway
from polyslo.gateway.config.gateway import parse_config
from polyslo.gateway.observability.dashboard import ALERTS, DASHBOARD, NUM_COLUMNS, alert_rules, dashboard
from polyslo.gateway.observability.metrics_reference import described

TARGET_LABELS = {"job", "instance"}  # that Prometheus adds to all it scrapes
DOCS = (Path(__file__).parents[2] / "docs" / "observability.md").read_text(encoding="utf-8")
LEGEND_LABEL = re.compile(r"\{\{\s*(\w+)\s*\}\}")
ANNOTATION_LABEL = re.compile(r"\$labels\.(\w+)")


@pytest.fixture(scope="module")
def exported():
    """The labels of each series that a gateway exports, those of the process too."""

    async def main():
        gateway = Gateway(parse_config(CONFIG, "test"))
        await gateway.start()
        try:
            return described(gateway.metrics.registries)
        finally:
            await gateway.stop()

    labels = {}
    for one in asyncio.run(main()):
        for series in one.series:
            labels[series] = set(one.labels) | TARGET_LABELS | ({"le"} if series.endswith("_bucket") else set())
    return labels


CONFIG = {"server": {"port": 0, "metrics_port": 0}, "models": [{"endpoints": [{"url": "http://127.0.0.1:9"}]}]}


@pytest.fixture(scope="module")
def rules():
    """The rules, as YAML has them."""
    yaml = pytest.importorskip("yaml")
    return [rule for group in yaml.safe_load(alert_rules())["groups"] for rule in group["rules"]]


def panels():
    """Return the panels that show something."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def check(expr, exported):
    """Check that an expression names metrics and labels that exist; return what its result may be labelled with."""
    named = read_expression(expr)
    assert named.metrics, expr
    for metric in named.metrics:
        assert metric in exported, f"{metric} in {expr}"
        assert named.matched.get(metric, frozenset()) <= exported[metric], expr
    known = set().union(*(exported[metric] for metric in named.metrics))
    assert named.grouped <= known, expr
    return named.grouped or known


def test_panels_name_only_what_is_exported(exported):
    """Metrics, labels that are matched and grouped by, and labels in legends."""
    num_queries = 0
    for panel in panels():
        for target in panel["targets"]:
            labels = check(target["expr"].replace("$__rate_interval", "5m"), exported)
            assert set(LEGEND_LABEL.findall(target["legendFormat"])) <= labels, target
            num_queries += 1
    assert num_queries > 50


def test_the_models_variable_asks_for_a_label_that_exists(exported):
    """`label_values(METRIC, LABEL)`."""
    (query,) = [v["query"]["query"] for v in dashboard()["templating"]["list"] if v["type"] == "query"]
    metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", query).groups()
    assert label in exported[metric]


def test_rules_name_only_what_is_exported(exported, rules):
    """Metrics, what rules before them record, labels, and labels in annotations."""
    known = dict(exported)
    for rule in rules:
        labels = check(rule["expr"], known)
        if "record" in rule:
            known[rule["record"]] = set(labels)
            continue
        told = " ".join(rule["annotations"].values())
        assert set(ANNOTATION_LABEL.findall(told)) <= labels, rule["alert"]


def test_rules_have_the_shape_that_prometheus_reads(rules):
    """Each records or alerts; an alert has a severity, a time, a summary and what to do; the docs list all of them."""
    alerts = [rule for rule in rules if "alert" in rule]
    for rule in rules:
        kind = "alert" if "alert" in rule else "record"
        extra = {"for", "labels", "annotations"} if kind == "alert" else set()
        assert set(rule) == {kind, "expr"} | extra
    for rule in alerts:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert set(rule["annotations"]) == {"summary", "description"}
        assert re.fullmatch(r"\d+m", rule["for"])
    names = [rule["alert"] for rule in alerts]
    assert sorted(re.findall(r"^\| `(Polyslo\w+)`", DOCS, re.MULTILINE)) == sorted(names)


@pytest.mark.parametrize(
    "wrong",
    [
        "rate(polyslo_request_totals[5m])",
        'sum(polyslo_request_running{tier="20ms"})',
        "sum by (tier) (polyslo_request_running)",
    ],
)
def test_a_name_that_does_not_exist_is_found(exported, wrong):
    """So the checks above can fail."""
    with pytest.raises(AssertionError):
        check(wrong, exported)


@pytest.mark.parametrize("wrong", ["rat(polyslo_request_total[5m])", "sum(polyslo_request_running", 'up{a="b}'])
def test_an_expression_that_is_none_is_found(wrong):
    """A function that does not exist, a parenthesis that is missing, a text that does not end."""
    with pytest.raises(ValueError, match=r"neither|parentheses|matcher"):
        read_expression(wrong)


def test_panels_lie_side_by_side():
    """Each has a number of its own and a place that no other has, inside the page."""
    taken = set()
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= NUM_COLUMNS
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_panel_says_what_it_shows():
    """A title of its own, a sentence, a unit, the data source of the page, and queries with names."""
    titles = [panel["title"] for panel in panels()]
    assert len(set(titles)) == len(titles)
    for panel in panels():
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert [target["refId"] for target in panel["targets"]] == list("ABCDEFGH")[: len(panel["targets"])]
        assert all(target["legendFormat"] for target in panel["targets"])


def test_the_command_writes_both(tmp_path):
    """Into a folder that it makes; their paths are told."""
    folder = tmp_path / "new" / "grafana"
    result = CliRunner().invoke(cli, ["dashboards", "--out", str(folder)])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [str(folder / DASHBOARD), str(folder / ALERTS)]
    assert json.loads((folder / DASHBOARD).read_text())["uid"] == "polyslo-gateway"
    assert (folder / ALERTS).read_text() == alert_rules()


def test_a_folder_that_cannot_be_written_is_an_error_in_one_line(tmp_path):
    """A file is in the way."""
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(cli, ["dashboards", "--out", str(tmp_path / "file" / "below")])
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "choose another folder" in result.stderr


def test_alerts_fire_when_they_should_and_not_else(tmp_path):
    """Prometheus's own test of rules; `alerts_test.yaml` says what fires for which series."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool on the path; Debian has it in its package prometheus")
    (tmp_path / "rules.yaml").write_text(alert_rules())
    cases = Path(__file__).with_name("alerts_test.yaml").read_text().replace("ALERTS", "rules.yaml")
    (tmp_path / "cases.yaml").write_text(cases)
    done = subprocess.run([promtool, "test", "rules", "cases.yaml"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
