"""With SCRIPT_NAME all paths have a prefix; probes are also answered without it."""

from tests.support.server import Server


def test_the_service_under_a_prefix(tmp_path):
    environment = {"WEB_CONCURRENCY": "1", "SCRIPT_NAME": "/emb"}
    with Server(environment, tmp_path, ["gunicorn", "tests.support.slow_wsgi:app"]) as server:
        assert f"curl -X POST {server.url}/emb/embed" in server.log()
        assert server.post("/emb/embed", {"texts": "a"}).status == 200
        for path in ("/health", "/ready", "/emb/health", "/emb", "/emb/", "/emb/docs", "/emb/openapi.json"):
            assert server.get(path).status == 200
        reply = server.post("/embed", {"texts": "a"})
        assert reply.status == 404
        assert "begin with /emb." in reply.json["error"]["message"]
        assert server.get("/").json["error"]["code"] == "not_found"


def test_a_trusted_proxy_may_set_it_as_a_header(tmp_path):
    environment = {"WEB_CONCURRENCY": "1"}
    with Server(environment, tmp_path, ["gunicorn", "tests.support.slow_wsgi:app"]) as server:
        request = b"GET %s HTTP/1.1\r\nHost: a\r\nSCRIPT_NAME: /emb\r\nConnection: close\r\n\r\n"
        assert server.raw(request % b"/emb/info").status == 200
        assert server.raw(request % b"/ready").status == 200
        assert server.raw(request % b"/info").status == 404
