"""With SCRIPT_NAME all paths have a prefix; probes are also answered without it."""

from types import SimpleNamespace

import pytest

from embedding_api.server import prefix

BROWSER = "text/html,*/*;q=0.8"


@pytest.fixture
def request_for(monkeypatch):
    """A function that makes a request of a path, with SCRIPT_NAME in the environment and as a proxy's header."""

    def make(path, environment="", header=None):
        monkeypatch.setenv("SCRIPT_NAME", environment)
        return SimpleNamespace(path=path, headers=[("HOST", "a")] + [("SCRIPT_NAME", header)] * (header is not None))

    return make


@pytest.mark.parametrize(
    ("path", "environment", "header"),
    [
        ("/embed", "", None),
        ("/emb", "/emb", None),
        ("/emb/", "/emb", None),
        ("/emb/embed", "/emb", None),
        ("/emb/embed", "", "/emb"),
        ("/emb/embed", "/other", "/emb"),
        ("/embed", "/emb", ""),
    ],
)
def test_a_path_inside_is_left_as_it_is(request_for, path, environment, header):
    request = request_for(path, environment, header)
    headers = list(request.headers)
    assert prefix.admit(request) is None
    assert (request.path, request.headers) == (path, headers)


@pytest.mark.parametrize("header", [None, "/emb"])
@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_a_probe_is_answered_without_it(request_for, path, header):
    request = request_for(path, "/emb", header)
    assert prefix.admit(request) is None
    assert request.headers[-1] == ("SCRIPT_NAME", "")


@pytest.mark.parametrize("path", ["/embed", "/", "/embx", "/healthy", "/metrics"])
def test_a_path_outside_is_an_error_that_names_the_prefix(request_for, path):
    request = request_for(path, "/emb")
    error = prefix.admit(request)
    assert error.status == 404
    assert path in str(error)
    assert "begin with /emb." in str(error)
    assert request.headers[-1] == ("SCRIPT_NAME", "")


@pytest.mark.parametrize(("name", "is_wrong"), [("", False), ("/emb", False), ("emb", True), ("/emb/", True)])
def test_a_prefix_that_makes_no_sense(monkeypatch, name, is_wrong):
    monkeypatch.setenv("SCRIPT_NAME", name)
    message = prefix.check()
    assert (message is not None) == is_wrong
    assert not is_wrong or message.startswith(f"SCRIPT_NAME={name!r} makes no sense: set it to")


@pytest.mark.parametrize("root", ["", "/emb"])
def test_the_list_of_paths_has_the_prefix(client, root):
    paths = client.get("/", environ_overrides={"SCRIPT_NAME": root}).json
    assert paths["embed"] == f"{root}/embed"
    assert f" {root}/embed " in paths.pop("message")
    assert all(path.startswith(f"{root}/") for path in paths.values())


def test_the_prefix_alone_is_no_page_of_html(client):
    """As other WSGI servers pass it on: the path is empty."""
    bare = {"SCRIPT_NAME": "/emb", "PATH_INFO": ""}
    assert client.get("/", environ_overrides=bare).json["embed"] == "/emb/embed"
    reply = client.get("/", environ_overrides=bare, headers={"Accept": BROWSER})
    assert (reply.status_code, reply.headers["Location"], reply.data) == (308, "/emb/", b"")
    assert "html" not in reply.content_type
    assert client.post("/", environ_overrides=bare, json={"inputs": "a"}).status_code == 200
