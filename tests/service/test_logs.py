import json
import re

from tests.support.server import Server

PRIVATE = "a private text"


def test_an_invalid_request_has_a_line_as_well(service):
    reply = service.raw(b"a-private-text\r\n\r\n")
    line = next(line for line in service.log().splitlines() if reply.headers["X-Request-ID"] in line)
    assert line.endswith("- - 400 malformed_request")


def test_text_lines_name_the_request(service):
    reply = service.embed(PRIVATE)
    line = next(line for line in service.log().splitlines() if reply.headers["X-Request-ID"] in line)
    assert re.match(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} \[\d+\] \[INFO\] \[[0-9a-f]{32}\] POST /embed 200 queue_ms=\S+ texts=1 ",
        line,
    )
    assert PRIVATE not in service.log()


def test_json_lines_are_all_json(model, tmp_path):
    environment = model.environment | {"EMBEDDING_LOG_FORMAT": "json", "EMBEDDING_ENGINE": "reference"}
    with Server(environment | {"WEB_CONCURRENCY": "1"}, tmp_path) as server:
        server.embed(["a", "b"])
        server.raw(b"nonsense\r\n\r\n")
    logged = [json.loads(line) for line in server.log().splitlines()]
    assert all({"time", "level", "logger", "pid", "request_id", "message"} <= set(line) for line in logged)
    (request,) = [line for line in logged if line.get("route") == "/embed"]
    assert (request["status"], request["texts"], request["tokens"]) == (200, 2, 6)
    (refused,) = [line for line in logged if line["message"].startswith("- - 400")]
    assert re.fullmatch("[0-9a-f]{32}", refused["request_id"])
    assert any("EMBEDDING_ENGINE=reference" in line["message"] for line in logged)
