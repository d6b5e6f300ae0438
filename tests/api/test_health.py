from types import SimpleNamespace

from embedding_api import __version__


def test_health_names_the_model(client):
    health = {"status": "ok", "model": "tiny", "dimension": 8, "engine": "tiny", "dtype": "float32"}
    assert client.get("/health").json == health


def test_info_has_the_models_properties_and_the_limits(client):
    info = client.get("/info").json
    assert (info["model"], info["dimension"], info["max_length"]) == ("tiny", 8, 16)
    assert (info["query_prompt"], info["document_prompt"]) == ("q: ", "")
    limits = {"texts": 10, "tokens": 100, "body_bytes": 10_000, "waiting": 128, "client_timeout": 10}
    assert info["limits"] == limits
    assert info["version"] == __version__
    assert (info["revision"], info["engine"], info["dtype"], info["workers"]) == (None, "tiny", "float32", 1)


def test_ready_if_a_known_text_gets_its_vector(client, app, monkeypatch):
    assert client.get("/ready").json == {"status": "ready"}
    monkeypatch.setattr(app.extensions["encoder"], "passes_self_test", lambda: False)
    reply = client.get("/ready")
    assert (reply.status_code, reply.json["error"]["code"]) == (503, "not_ready")


def test_not_ready_while_it_stops(client, app):
    app.extensions["server"] = SimpleNamespace(stopping=True, waiting=0)
    reply = client.get("/ready")
    assert (reply.status_code, reply.json["error"]["code"], reply.headers["Retry-After"]) == (503, "stopping", "5")
    assert client.get("/health").status_code == 200
