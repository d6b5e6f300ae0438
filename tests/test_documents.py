"""The documents agree with the code."""

import json
import re

import pytest
from gunicorn.config import Config

from embedding_api.__main__ import cli
from embedding_api.config import Settings
from embedding_api.encoder.kernel.engine import KernelEngine
from embedding_api.server import connection, limits, request, worker
from tests.support.server import ROOT

DOCUMENTS = (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
ALERTS = (ROOT / "deploy" / "alerts.yml").read_text()
DASHBOARD = (ROOT / "docs" / "grafana-dashboard.json").read_text()


@pytest.fixture
def exposed(client):
    """The names of all metrics, without the times of their creation, which several processes do not have."""
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


@pytest.mark.parametrize("text", [ALERTS, DASHBOARD])
def test_alerts_and_dashboard_count_every_path_that_computes(app, text):
    patterns = set(re.findall(r'route=~\\?"(.+?)\\?"', text))
    assert patterns
    computes = {
        rule.rule
        for rule in app.url_map.iter_rules()
        if getattr(app.view_functions[rule.endpoint], "operation", {}).get("reports_usage")
    }
    assert len(computes) > 5
    for pattern in patterns:
        assert all(re.fullmatch(pattern, route) for route in computes)
        assert not re.fullmatch(pattern, "/tokenize")


def test_the_dashboard_is_json_that_grafana_imports():
    dashboard = json.loads(DASHBOARD)
    assert dashboard["title"] == "Embedding API"
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"]) > 5
    assert all(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])


def test_nothing_is_left_to_fill_in():
    for document in DOCUMENTS:
        assert not re.findall(r"%[A-Z]|TODO|XXX", document.read_text())


@pytest.mark.parametrize("command", ["embed", "evaluate"])
def test_every_option_of_a_command_is_documented(command):
    bulk = (ROOT / "docs" / "bulk.md").read_text()
    for option in cli.commands[command].params:
        for name in option.opts:
            assert not name.startswith("--") or f"`{name}`" in bulk


def rows(text):
    """The rows of all tables of a document: the text after the first cell, by the first cell."""
    cells = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {name: " | ".join(others) for name, *others in cells}


def bounds():
    """What the table of bounds must say, by the code."""
    settings, gunicorn = Settings(), Config()
    configured = (ROOT / "gunicorn.conf.py").read_text()
    kept, silence, stop, backlog = (
        re.search(rf"^{name} = (\d+)", configured, re.MULTILINE)[1]
        for name in ("keepalive", "timeout", "graceful_timeout", "backlog")
    )
    largest = max(settings.max_body_bytes, settings.max_texts * limits.VECTOR_BYTES)
    memory = f"{limits.LARGE_PAYLOADS * largest >> 20} MB"
    head = f"{request.HEAD_BYTES >> 10} KB"
    return {
        "Postponed requests of a worker": f", {settings.max_waiting} divided by the workers",
        "Large requests, and stalled bodies, in a worker": f", {settings.max_waiting} divided",
        "Connections in the backlog": f"{int(backlog):,} (`--backlog`)",
        "Tokens of a forward pass": f"{KernelEngine.micro_batch_tokens} ",
        "Compute threads of a worker": f"at most {worker.MAX_THREADS} ",
        "Connections of a worker": f"{gunicorn.worker_connections:,} (`--worker-connections`)",
        "Bodies of more than 64 KB, and tokens of large requests, in a worker": memory,
        "Vectors of large requests, in a worker": memory,
        "Answers, in a worker": memory,
        "Body": f"{settings.max_body_bytes >> 20} MB",
        "What the chunks of a body add to it": f"{request.CHUNK_BYTES >> 10} KB",
        "Texts; tokens": f"{settings.max_texts}; `EMBEDDING_MAX_TOKENS`, {settings.max_tokens} ",
        "Request line": f"{gunicorn.limit_request_line:,} bytes",
        "One header; all of them": (
            f"{gunicorn.limit_request_field_size:,} bytes (`--limit-request-field_size`); "
            f"{gunicorn.limit_request_fields} headers (`--limit-request-fields`) and {head}"
        ),
        "Time to send a request, and to read an answer": (
            f"{settings.client_timeout} s, and 1 s for each {connection.MIN_BYTES_PER_SECOND >> 10} KB"
        ),
        "Idle time of a kept connection": f"{kept} s (`--keep-alive`)",
        "What a client still sends after its answer": (
            f"{connection.DISCARD_BYTES >> 20} MB, {connection.DISCARD_SECONDS} s"
        ),
        "Silence of a worker": f"{silence} s",
        "Stopping": f"{stop} s",
    }


def test_bounds_are_those_of_the_code():
    said = rows(ARCHITECTURE)
    for name, bound in bounds().items():
        assert bound in said[name]


def test_every_module_is_on_the_map_and_no_other():
    modules = ROOT / "embedding_api"
    package, found = None, set()
    for line in ARCHITECTURE.splitlines():
        if heading := re.match(r"\| `embedding_api/(\w*)/?` \|", line):
            package = modules / heading[1]
        elif package and line.startswith("| `"):
            found |= {package / name for name in re.findall(r"`([\w.]+\.py)`", line.split(" | ")[0])}
        elif not line.startswith("|"):
            package = None
    there = {path for path in modules.rglob("*.py") if path.name != "__init__.py" and path.parent.name != "kernel"}
    assert found == there


def test_links_between_documents_lead_somewhere():
    for document in DOCUMENTS:
        for path, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", document.read_text()):
            target = document.parent / path if path else document
            assert target.exists(), (document.name, path)
            if anchor:
                headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
                anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
                assert anchor in anchors, (document.name, path, anchor)


def test_every_file_that_a_document_names_is_there():
    folders = [ROOT / name for name in ("embedding_api", "tests", "benchmarks", "deploy", "docs")]
    files = [*ROOT.iterdir(), *(path for folder in folders for path in folder.rglob("*"))]
    there = [f"/{path.relative_to(ROOT)}" for path in files]
    for document in DOCUMENTS:
        for name in re.findall(r"`([\w./-]+\.(?:py|c|h|md|ya?ml|json|txt|toml|conf|service))`", document.read_text()):
            # Those with a slash in front are on another machine, or in a URL.
            assert name.startswith("/") or any(path.endswith(f"/{name}") for path in there), (document.name, name)
