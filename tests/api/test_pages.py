import re

import pytest

from embedding_api.app import create_app
from embedding_api.config import Settings
from tests.support.tiny import tiny_encoder

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.parametrize("accept", [None, "*/*", "application/json", "application/json, text/html;q=0.9"])
def test_programs_get_json(client, accept):
    response = client.get("/", headers={"Accept": accept} if accept else {})
    assert response.content_type == "application/json"
    assert "/embed" in response.json["message"]
    assert response.headers["Vary"] == "Accept"


@pytest.mark.parametrize("accept", [BROWSER, "text/html"])
def test_browsers_get_a_page(client, accept):
    response = client.get("/", headers={"Accept": accept})
    assert response.content_type.startswith("text/html")
    assert "tiny" in response.text
    assert response.headers["Vary"] == "Accept"


@pytest.mark.parametrize("accept", ["*/*", BROWSER])
def test_head(client, accept):
    assert client.head("/", headers={"Accept": accept}).status_code == 200


def test_the_policy_allows_nothing_unsafe_and_the_frame_of_a_space(client):
    policy = client.get("/", headers={"Accept": BROWSER}).headers["Content-Security-Policy"]
    assert policy == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
        " frame-ancestors 'self' https://huggingface.co; base-uri 'none'; form-action 'none'"
    )
    assert policy == client.get("/docs").headers["Content-Security-Policy"]
    assert "X-Frame-Options" not in client.get("/").headers


def test_files_are_kept_for_good_by_their_version(client):
    page = client.get("/", headers={"Accept": BROWSER}).text
    paths = re.findall(r'(?:src|href)="(static/[^"]+)"', page)
    assert len(paths) == 3
    for path in paths:
        # Seen from the page, so that it works behind a proxy's prefix.
        with client.get("/" + path) as response:
            assert response.status_code == 200
            assert response.headers["Cache-Control"] == "public, max-age=31536000"


def test_files_of_another_version_are_not_kept(client):
    for path in ("/static/x/page.js", "/docs/x/swagger-ui.css"):
        with client.get(path) as response:
            assert response.status_code == 200
            assert response.headers["Cache-Control"] == "no-cache"
    assert client.get("/docs").headers["Cache-Control"] == "no-cache"


def test_every_import_of_a_script_is_there(client):
    for script in ("page.js", "api.js", "snippets.js", "view.js", "docs.js"):
        with client.get(f"/static/x/{script}") as response:
            for other in re.findall(r'from "\./(.+?)"', response.text):
                with client.get(f"/static/x/{other}") as answer:
                    assert answer.status_code == 200


@pytest.mark.parametrize("path", ["/static/x/../pages.py", "/static/x/%2e%2e/pages.py", "/static/x/nothing.js"])
def test_nothing_else_is_served(client, path):
    response = client.get(path)
    assert response.status_code == 404
    assert response.json["error"]["code"] == "not_found"


def test_where_keys_are_set_it_asks_for_one():
    app = create_app(Settings(api_keys=("k" * 16,)), tiny_encoder())
    page = app.test_client().get("/", headers={"Accept": BROWSER}).text
    assert 'id="key"' in page
    assert "k" * 16 not in page
