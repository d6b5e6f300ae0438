import re

import pytest


@pytest.mark.parametrize("path", ["/health", "/nothing"])
def test_every_response_has_a_request_id(client, path):
    first, second = (client.get(path).headers["X-Request-ID"] for _ in range(2))
    assert re.fullmatch("[0-9a-f]{32}", first)
    assert first != second


@pytest.mark.parametrize("sent", ["abc", "00-4bf92f3577b34da6a3ce929d0e0e4736-01", "Root=1-67891233-abcdef", "a" * 128])
def test_a_well_formed_request_id_is_kept(client, sent):
    assert client.get("/health", headers={"X-Request-ID": sent}).headers["X-Request-ID"] == sent


@pytest.mark.parametrize("sent", ["", "a b", "a" * 129, "ä", '"x"', "<script>"])
def test_a_malformed_request_id_is_replaced(client, sent):
    assert re.fullmatch("[0-9a-f]{32}", client.get("/health", headers={"X-Request-ID": sent}).headers["X-Request-ID"])
