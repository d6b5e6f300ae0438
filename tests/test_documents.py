"""What the documents say is what there is."""

import json
import re

import pytest

from embedding_api.__main__ import cli
from support.server import ROOT

OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
ALERTS = (ROOT / "deploy" / "alerts.yml").read_text()
DASHBOARD = (ROOT / "docs" / "grafana-dashboard.json").read_text()


@pytest.fixture
def exposed(client):
    """The names of all metrics, but for the moments of creation, which several processes do not have."""
    names = re.findall(r"^# TYPE (\S+)", client.get("/metrics").text, re.MULTILINE)
    return {name for name in names if not name.endswith("_created")}


def test_every_metric_is_documented_and_every_documented_one_exists(exposed):
    table = "\n".join(line for line in OPERATIONS.splitlines() if line.startswith("| `embedding_"))
    assert set(re.findall(r"`(embedding_\w+)`", table)) == exposed


@pytest.mark.parametrize("text", [OPERATIONS, ALERTS, DASHBOARD])
def test_every_metric_of_alerts_and_dashboard_exists(exposed, text):
    used = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\bembedding_[a-z_]+", text)} - {
        "embedding_api"
    }
    assert used <= exposed


def test_the_dashboard_is_json_that_grafana_imports():
    dashboard = json.loads(DASHBOARD)
    assert dashboard["title"] == "Embedding API"
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"]) > 5
    assert all(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])


def test_nothing_is_left_to_fill_in():
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        assert not re.findall(r"%[A-Z]|TODO|XXX", document.read_text())


@pytest.mark.parametrize("command", ["embed", "evaluate"])
def test_every_option_of_a_command_is_documented(command):
    bulk = (ROOT / "docs" / "bulk.md").read_text()
    for option in cli.commands[command].params:
        for name in option.opts:
            assert not name.startswith("--") or f"`{name}`" in bulk
