"""`GET /openapi.json`: the API's description, made of the schemas that check it. `GET /docs`: a page to try it."""

import re
from collections import defaultdict
from importlib.metadata import version
from importlib.resources import files

import orjson
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from flask import Blueprint, Response, current_app

from embedding_api import __version__
from embedding_api.api.operation import OWN, operation
from embedding_api.api.pages import render, send
from embedding_api.errors import CODES, error_body

blueprint = Blueprint("openapi", __name__)

# Swagger UI's own files, as the package flask-swagger-ui has them.
_SWAGGER_UI = files("flask_swagger_ui") / "dist"
_ASSETS = ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png")
_VERSION = version("flask-swagger-ui")

# The statuses in `CODES` of errors that any request may get, and that one with a body may get.
_ANY = (400, 405, 408, 414, 417, 431, 500)
_BODY = (413, 415, 422, 499, 503)
# What may be found before it is known which dialect the client speaks, and then has the service's own shape.
_EARLY = {
    "malformed_request",
    "method_not_allowed",
    "request_timeout",
    "uri_too_long",
    "expectation_failed",
    "headers_too_large",
    "internal_error",
}

_HEADERS = {
    "X-Request-ID": "The request's name, in the log as well: the client's own if it sent a well-formed one.",
    "X-Texts": "How many texts were computed.",
    "X-Tokens": "How many tokens they have.",
    "X-Truncated": "How many of the texts were cut.",
    "X-Truncated-Texts": "The indexes of the first 20 of them.",
    "X-Unknown-Tokens": "How many of the tokens stand for what the model has no token for, such as an emoji.",
    "Server-Timing": "Milliseconds of waiting for a forward pass, of tokenizing, and of encoding.",
}
_ALWAYS = ("X-Request-ID",)


@blueprint.get("/openapi.json")
@operation("This description")
def openapi():
    if "openapi" not in current_app.extensions:
        describe(current_app)
    return Response(current_app.extensions["openapi"], content_type="application/json")


@blueprint.get("/docs")
@operation("A page to try it on", content_type="text/html")
def page():
    return render("docs.html", swagger=_VERSION)


@blueprint.get(f"/docs/<version>/<any({', '.join(map(repr, _ASSETS))}):name>")
def asset(version, name):
    return send(_SWAGGER_UI, name, version == _VERSION)


def describe(app):
    """Make the description, OpenAPI 3.1, and keep it in the application. It takes some 50 ms."""
    with app.app_context():
        app.extensions["openapi"] = orjson.dumps(_describe(app))


def _describe(app):
    plugin = MarshmallowPlugin(schema_name_resolver=_name)
    spec = APISpec(
        title="Embedding API",
        version=__version__,
        openapi_version="3.1.0",
        plugins=[plugin],
        info={"description": "Turns texts into vectors for search, clustering and classification."},
        # Relative to this description, as a proxy may add a prefix.
        servers=[{"url": "."}],
    )
    plugin.converter.add_attribute_function(_own_description)
    secured = bool(app.extensions["settings"].api_keys)
    if secured:
        spec.components.security_scheme("key", {"type": "http", "scheme": "bearer"})
    names = {}

    def refer(status, codes, schemas):
        """The name of an error response, which is described once for all paths that have it."""
        key = status, *codes, *schemas
        if key not in names:
            others = sum(other == status for other, *_ in names)
            names[key] = f"{status}.{others + 1}" if others else str(status)
            spec.components.response(names[key], _error(status, codes, schemas))
        return names[key]

    # First, so that the service's own errors have their plain status as name; also those that no path lists.
    for status, found in _errors(CODES, [OWN]).items():
        refer(status, *found)
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: "POST" not in rule.methods):
        view = app.view_functions[rule.endpoint]
        if hasattr(view, "operation"):
            keyed = secured and rule.endpoint not in app.extensions["open"]
            methods = {method.lower() for method in rule.methods} & {"get", "post"}
            described = {"tags": [rule.endpoint.partition(".")[0]], **_operation(view, keyed, refer)}
            if rule.rule.startswith("/query"):
                described["summary"] += "; the texts are queries"
                described["operationId"] = f"query_{described['operationId']}"
            path = re.sub(r"<(?:[^<>:]+:)?([^<>]+)>", r"{\1}", rule.rule)
            spec.path(path, operations=dict.fromkeys(methods, described), parameters=_parameters(view))
    return spec.to_dict()


def _operation(view, keyed, refer):
    about = view.operation
    described = {"summary": about["summary"], "operationId": view.__name__}
    statuses = {*_ANY, *about["errors"]}
    if keyed:
        described["security"] = [{"key": []}]
        statuses.add(401)
    if about["request"]:
        statuses.update(_BODY)
        described["requestBody"] = {"required": True, "content": _content("application/json", about["request"])}
    success = {
        "description": "Done.",
        "headers": {
            name: _header(name, required=name != "X-Truncated-Texts")
            for name in (_HEADERS if about["reports_usage"] else _ALWAYS)
        },
        "content": _content(about["content_type"], about["response"]),
    }
    responses = {"200": success}
    errors = _errors([code for code, (status, _) in CODES.items() if status in statuses], about["dialects"])
    for status, found in errors.items():
        responses[str(status)] = refer(status, *found)
    return described | {"responses": responses}


def _errors(codes, dialects):
    """The errors with these codes, by their status: the codes that have it, and the schemas of their bodies."""
    # Dictionaries as sets that keep their order.
    errors = defaultdict(lambda: ({}, {}))
    for code in codes:
        for dialect in (OWN, *dialects) if code in _EARLY else dialects:
            its_codes, schemas = errors[dialect.statuses.get(code, CODES[code][0])]
            its_codes[code] = schemas[dialect.error] = None
    return {status: (list(its_codes), list(schemas)) for status, (its_codes, schemas) in sorted(errors.items())}


def _error(status, codes, schemas):
    """An error response."""
    headers = {name: _header(name) for name in _ALWAYS}
    if status in (429, 503):
        headers["Retry-After"] = {"description": "Seconds to wait.", "schema": {"type": "integer"}}
    content = {"schema": _json_schema(schemas if len(schemas) > 1 else schemas[0])}
    if schemas == [OWN.error]:
        content["examples"] = {code: {"value": error_body(status, code, CODES[code][1])} for code in codes}
    return {
        "description": " ".join(f"`{code}`: {CODES[code][1]}" for code in codes),
        "headers": headers,
        "content": {"application/json": content},
    }


def _content(content_type, schema):
    if schema is None:
        return {content_type: {}}
    schemas = schema if isinstance(schema, list) else [schema]
    examples = {name: {"value": value} for each in schemas for name, value in each.examples.items()}
    return {content_type: {"schema": _json_schema(schema), "examples": examples}}


def _json_schema(schema):
    if isinstance(schema, list):
        return {"anyOf": [_json_schema(each) for each in schema]}
    # An instance, whose fields know whether null is the same as absent.
    return getattr(schema, "json_schema", None) or schema()


def _header(name, required=True):
    return {"description": _HEADERS[name], "required": required, "schema": {"type": "string"}}


def _parameters(view):
    schemas = view.operation["parameters"].items()
    return [{"in": "path", "name": name, "required": True, "schema": schema()} for name, schema in schemas]


def _name(schema):
    return (schema if isinstance(schema, type) else type(schema)).__name__.lstrip("_")


def _own_description(converter, field, ret):
    return field.openapi() if hasattr(field, "openapi") else {}
