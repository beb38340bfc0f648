"""The Grafana dashboard and the Prometheus rules, as files to import.

The dashboard is written from `dashboard_panels`, so that a panel is a line and not a page of JSON; the rules lie beside
as they are. Both name only what the gateway exports: a test reads every expression.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import orjson

from polyslo.gateway.observability.dashboard_panels import ROWS, Panel, Row

DASHBOARD, ALERTS = "polyslo-dashboard.json", "polyslo-alerts.yaml"
SCHEMA_VERSION = 39  # of Grafana 11; later ones migrate it when they import it
NUM_COLUMNS = 24
CURVE_HEIGHT, NUMBER_HEIGHT = 8, 4
SOURCE = {"type": "prometheus", "uid": "${datasource}"}

Json = dict[str, Any]


def write_dashboards(folder: Path) -> list[Path]:
    """Write both files into a folder, which is made where it is missing; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {DASHBOARD: dashboard_json(), ALERTS: alert_rules()}
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def alert_rules() -> str:
    """Return the rules, YAML."""
    return files("polyslo.gateway.observability").joinpath("dashboards", ALERTS).read_text(encoding="utf-8")


def dashboard_json() -> str:
    """Return the dashboard as Grafana imports it."""
    return orjson.dumps(dashboard(), option=orjson.OPT_INDENT_2).decode() + "\n"


def dashboard() -> Json:
    """Return the dashboard: rows of panels, and variables for the data source and the models."""
    return {
        "uid": "polyslo-gateway",
        "title": "polyslo",
        "description": "Multi-SLO serving: what was promised, what came, and why.",
        "tags": ["polyslo", "llm"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,  # the crosshair is shared
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "",
        "templating": {"list": [_source_variable(), _model_variable()]},
        "annotations": {"list": []},
        "panels": list(_panels()),
    }


def _source_variable() -> Json:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "hide": 0}


def _model_variable() -> Json:
    query = "label_values(polyslo_request_running, model)"
    return {
        "name": "model",
        "label": "Model",
        "type": "query",
        "datasource": SOURCE,
        "definition": query,
        "query": {"query": query, "refId": "model"},
        "refresh": 2,  # when the time range changes
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "hide": 0,
    }


def _panels() -> Iterator[Json]:
    """Yield rows and panels with their places, left to right and then down."""
    number, y = 0, 0
    for row in ROWS:
        number += 1
        yield _row(row, number, y)
        x, y, height = 0, y + 1, 0
        for panel in row.panels:
            if x + panel.width > NUM_COLUMNS:
                x, y, height = 0, y + height, 0
            number += 1
            own_height = NUMBER_HEIGHT if panel.is_number else CURVE_HEIGHT
            yield _panel(panel, number, {"x": x, "y": y, "w": panel.width, "h": own_height})
            x, height = x + panel.width, max(height, own_height)
        y += height


def _row(row: Row, number: int, y: int) -> Json:
    place = {"x": 0, "y": y, "w": NUM_COLUMNS, "h": 1}
    return {"id": number, "type": "row", "title": row.title, "collapsed": False, "gridPos": place, "panels": []}


def _panel(panel: Panel, number: int, place: Json) -> Json:
    return {
        "id": number,
        "type": "stat" if panel.is_number else "timeseries",
        "title": panel.title,
        "description": panel.meaning,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _number_options() if panel.is_number else _curve_options(),
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": SOURCE,
                "expr": query.expr,
                "legendFormat": query.legend,
                "range": not panel.is_number,
                "instant": panel.is_number,
            }
            for index, query in enumerate(panel.queries)
        ],
    }


def _defaults(panel: Panel) -> Json:
    if panel.is_number:
        return {"unit": panel.unit, "color": {"mode": "fixed", "fixedColor": "text"}}
    stacking = {"mode": "normal" if panel.is_stacked else "none", "group": "A"}
    custom = {"lineWidth": 1, "fillOpacity": 30 if panel.is_stacked else 0, "showPoints": "never", "stacking": stacking}
    return {"unit": panel.unit, "custom": custom}


def _number_options() -> Json:
    reduced = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    return {"reduceOptions": reduced, "colorMode": "none", "graphMode": "none"}


def _curve_options() -> Json:
    return {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
