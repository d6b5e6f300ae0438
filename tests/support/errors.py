"""What every error looks like."""


def assert_error(response, status, code):
    assert response.status_code == status
    assert response.content_type == "application/json"
    error = response.json["error"]
    assert list(error) == ["message", "type", "param", "code", "details"]
    assert error["code"] == code
    assert error["message"]
