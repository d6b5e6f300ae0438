import json

import orjson
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from embedding_api.api import request_body
from embedding_api.config import Settings
from embedding_api.errors import ClientGone


def post(client, body, content_type="application/json", **options):
    return client.post("/embed", data=body, content_type=content_type, **options)


def error_of(response):
    error = response.json["error"]
    assert list(error) == ["message", "type", "param", "code", "details"]
    assert error["type"] == "invalid_request_error"
    return response.status_code, error["code"]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"texts": "a"',
        b"nonsense",
        b"{'texts': 'a'}",
        b'{"texts": NaN}',
        b'{"texts": Infinity}',
        b'{"texts": "\\ud800"}',
        b'{"texts": "\xff"}',
        b'{"texts": "a\x00b"}',
        b'{"texts": "a"} {"texts": "b"}',
        b'{"texts": ' + b"9" * 5000 + b"}",
        b"[" * 900,
        b'{"texts": "a' + b"[" * 9000,
        json.dumps({"texts": "a"}).encode("utf-16"),
    ],
)
def test_a_body_that_is_not_json_in_utf8_is_refused(client, body):
    assert error_of(post(client, body)) == (400, "invalid_json")


def test_a_byte_order_mark_is_skipped(client):
    body = json.dumps({"texts": "a"}).encode()
    assert post(client, b"\xef\xbb\xbf" + body).data == post(client, body).data


@pytest.mark.parametrize(
    ("value", "param"),
    [
        ({"texts": ["ok", "cut \ud83d"]}, "texts[1]"),
        ({"texts": "\ude00 cut"}, "texts"),
        ({"texts": "ok", "other": {"more": ["\ud83d"]}}, "other.more[0]"),
        ({"texts": "ok", "\ud83d": 1}, "?"),
    ],
)
def test_half_a_character_is_named_with_its_text(client, value, param):
    response = post(client, json.dumps(value))
    assert error_of(response) == (400, "invalid_json")
    assert response.json["error"]["param"] == param
    assert response.json["error"]["message"].startswith(f"{param}: Ends or begins with half of a character")


@pytest.mark.parametrize("depth", [100, 1000, 1022, 1025, 4000])
def test_deep_nesting(client, depth):
    assert post(client, b'{"texts": ' + b"[" * depth + b"]" * depth + b"}").status_code in (400, 422)


@pytest.mark.parametrize("body", [b"", b" \n"])
def test_empty_body(client, body):
    assert error_of(post(client, body)) == (400, "empty_body")


@pytest.mark.parametrize("body", [b'{"texts": "a", "texts": "b"}', b'{"texts": "a", "\\u0074exts": "b"}'])
def test_duplicate_keys_are_named(client, body):
    response = post(client, body)
    assert error_of(response) == (400, "duplicate_key")
    assert response.json["error"]["param"] == "texts"


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
)
def test_an_error_for_another_content_type_names_the_right_one(client, content_type):
    response = post(client, b'{"texts": "a"}', content_type)
    assert error_of(response) == (415, "unsupported_media_type")
    assert "'Content-Type: application/json'" in response.json["error"]["message"]


def test_a_charset_does_not_matter(client):
    assert post(client, b'{"texts": "a"}', "application/json; charset=utf-8").status_code == 200


def test_compressed_bodies_are_refused(client):
    response = post(client, b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    assert error_of(response) == (415, "unsupported_content_encoding")


def test_a_body_may_be_as_large_as_the_limit(client):
    body = b'{"texts": "a"}'
    assert post(client, body + b" " * (10_000 - len(body))).status_code == 200
    response = post(client, body + b" " * (10_001 - len(body)))
    assert error_of(response) == (413, "body_too_large")
    assert response.json["error"]["details"] == {"limit": 10_000}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"texts": [1]}', "texts[0]"),
        (b'{"texts": ["a", null]}', "texts[1]"),
        (b'{"texts": ["a", ["b"]]}', "texts[1]"),
        (b'{"texts": ["a", "", "b"]}', "texts[1]"),
        (b'{"texts": ["a", " \\t\\n"]}', "texts[1]"),
        (b'{"texts": " "}', "texts"),
        (b'{"texts": []}', "texts"),
        (b'{"texts": null}', "texts"),
        (b'{"texts": {"0": "a"}}', "texts"),
        (b'{"texts": 12345678901234567890123}', "texts"),
        (b'{"texts": ["a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "a"]}', "texts"),
        (b"{}", "texts"),
        (b'{"texts": "a", "normalize": 1}', "normalize"),
        (b'{"texts": "a", "normalize": "true"}', "normalize"),
        (b'{"texts": "a", "truncate": []}', "truncate"),
        (b'{"texts": "a", "normalise": true}', "normalise"),
        (b'["a"]', None),
        (b'"a"', None),
        (b"null", None),
        (b"1", None),
    ],
)
def test_wrong_fields_are_named(client, body, param):
    response = post(client, body)
    assert error_of(response) == (422, "invalid_fields")
    error = response.json["error"]
    assert error["param"] == param
    assert error["details"][0]["param"] == param
    assert error["message"].endswith(error["details"][0]["message"])


@pytest.mark.parametrize(
    ("field", "advice"),
    [
        ("normalise", "Did you mean 'normalize'?"),
        ("text", "Did you mean 'texts'?"),
        ("isQuery", "Did you mean 'is_query'?"),
        ("zzz", "The fields are: texts, normalize, is_query, truncate."),
    ],
)
def test_unknown_fields_get_the_nearest_known_one(client, field, advice):
    response = client.post("/embed", json={"texts": "a", field: True})
    assert response.json["error"]["message"] == f"{field}: Unknown field. {advice}"


@pytest.mark.parametrize("value", ["[]", "{}", "1.5", '"a"', "[[[[[[]]]]]]"])
def test_thousands_of_values_are_refused_before_they_are_parsed(client, monkeypatch, value):
    body = f'{{"texts": [{",".join([value] * 1100)}]}}'
    client.application.extensions["settings"] = Settings(max_texts=10)
    monkeypatch.setattr(orjson, "loads", None)
    response = client.post("/embed", data=body, content_type="application/json")
    monkeypatch.undo()
    assert error_of(response) == (422, "invalid_fields")
    assert "at most 10 texts" in response.json["error"]["message"]


@pytest.mark.parametrize("text", [",[{" * 2000, "\\" * 4000, '\\"' * 2000, '"' * 4000, '\\"\\\\' * 800])
def test_characters_in_a_string_do_not_count_as_values(client, text):
    assert client.post("/embed", json={"texts": text}).status_code == 200


@pytest.mark.parametrize("end", ["", "\\", '"', '"}'])
def test_a_string_without_an_end(client, end):
    body = '{"texts": "' + '\\"' * 4000 + end
    assert client.post("/embed", data=body, content_type="application/json").status_code in (200, 400)


def test_a_body_with_objects_in_it_is_parsed_once(client, monkeypatch):
    # Python's parser would hold up the event loop.
    monkeypatch.setattr(json, "loads", None)
    body = b'{"input": "a", "options": [{"a": {"b": 1}}, {"a": 2}]}'
    response = client.post("/api/embed", data=body, content_type="application/json")
    monkeypatch.undo()
    assert response.status_code == 200


@pytest.mark.parametrize("depth", [100, 1015])
def test_objects_within_others(client, depth):
    client.application.extensions["settings"] = Settings()
    start, end = b'{"input": "a", "user": ' + b'{"a": ' * depth, b"}" * depth + b"}"
    response = client.post("/v1/embeddings", data=start + b'"b"' + end, content_type="application/json")
    assert response.status_code == 200
    response = client.post("/v1/embeddings", data=start + b'{"b": 1, "b": 1}' + end, content_type="application/json")
    assert error_of(response) == (400, "duplicate_key")


def test_many_keys_and_a_double_one(client):
    body = "{" + "".join(f'"{n}":1,' for n in range(400)) + '"399":1}'
    assert error_of(post(client, body.encode())) == (400, "duplicate_key")


class Pairs(list):
    """The keys and values of a JSON object, of which some may be equal."""


MOST_BYTES = 10_000

# With characters that may mislead a search for the ends of strings.
STRINGS = st.text(st.sampled_from('"\\\\:,{[]}ab\u00e9\U0001f600 '), max_size=12)
VALUES = st.recursive(
    STRINGS | st.integers(0, 9), lambda inner: st.lists(inner) | st.lists(st.tuples(STRINGS, inner)).map(Pairs)
)


def write(value, ascii_only):
    if isinstance(value, Pairs):
        members = [f"{write(key, ascii_only)} :{write(inner, ascii_only)}" for key, inner in value]
        return f"{{{', '.join(members)}}}"
    if isinstance(value, list):
        return f"[{', '.join(write(inner, ascii_only) for inner in value)}]"
    return json.dumps(value, ensure_ascii=ascii_only)


def has_duplicate(body):
    found = []

    def look(pairs):
        found.append(len(dict(pairs)) < len(pairs))
        return dict(pairs)

    json.loads(body, object_pairs_hook=look)
    return any(found)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(STRINGS, VALUES)).map(Pairs), st.booleans(), st.integers(2, 50))
def test_duplicate_keys_are_found_wherever_slices_end(client, monkeypatch, pairs, ascii_only, size):
    monkeypatch.setattr(request_body, "SLICE_BYTES", size)
    # So many that no body of this test is refused for its values before its keys are compared.
    client.application.extensions["settings"] = Settings(max_texts=MOST_BYTES)
    body = write(pairs, ascii_only).encode()
    assume(len(body) <= MOST_BYTES)
    response = post(client, body)
    assert (error_of(response)[1] == "duplicate_key") is has_duplicate(body)


@pytest.mark.parametrize("size", [2, 3, 4, 1000])
def test_tokens_and_keys_are_counted_wherever_slices_end(app, monkeypatch, size):
    monkeypatch.setattr(request_body, "SLICE_BYTES", size)
    body = json.dumps({"a\\": ['"', "[,{:", {"": 1, 'b\\"': ":"}]}).encode()
    with app.app_context():
        assert request_body._count_json_tokens(body, 100) == (6 + 3 + 3, 3)
        assert request_body._count_json_tokens(b'["' + b"\\" * 7, 100) == (2, 0)


def test_heartbeats_come_between_slices_and_not_for_small_bodies(client, beats):
    client.application.extensions["settings"] = Settings()
    assert post(client, b'{"texts": ""}').status_code == 422
    assert not beats
    body = b'{"texts": "' + b" " * (20 * request_body.SLICE_BYTES) + b'"}'
    assert post(client, body).status_code == 422
    assert len(beats) >= 21


def test_an_error_of_the_heartbeat_ends_the_work(client, monkeypatch):
    def gone():
        raise ClientGone

    monkeypatch.setattr(client.application.extensions["encoder"], "heartbeat", gone)
    client.application.extensions["settings"] = Settings()
    response = post(client, b'{"texts": "' + b" " * (2 * request_body.SLICE_BYTES) + b'"}')
    assert response.status_code == 499


def test_a_wrong_field_beside_an_unknown_one(client):
    error = client.post("/embed", json={"text": "a", "is_query": "true"}).json["error"]
    assert [detail["param"] for detail in error["details"]] == ["text", "texts", "is_query"]


def test_all_wrong_fields_are_in_the_details_but_not_thousands(client):
    error = client.post("/embed", json={"texts": ["", 1], "normalize": 0}).json["error"]
    assert [detail["param"] for detail in error["details"]] == ["texts[0]", "texts[1]", "normalize"]
    error = client.post("/embed", json={str(n): n for n in range(500)}).json["error"]
    assert len(error["details"]) == 20


def test_a_nul_within_a_text_is_dropped_as_the_tokenizer_drops_it(client):
    with_nul, without = (client.post("/embed", json={"texts": text}) for text in ("a\0b", "ab"))
    assert with_nul.json == without.json
