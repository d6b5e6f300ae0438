def test_health_names_the_model(client):
    health = {"status": "ok", "model": "tiny", "dimension": 8, "engine": "tiny", "dtype": "float32"}
    assert client.get("/health").json == health


def test_index_says_what_this_is(client):
    assert "/embed" in client.get("/").json["message"]
    assert client.head("/").status_code == 200
