"""What requests and responses look like. The checks and the API's description both come from here."""

from difflib import get_close_matches
from itertools import islice
from math import isqrt

import orjson
from marshmallow import EXCLUDE, Schema, ValidationError, fields, pre_load, validate, validates_schema

from embedding_api.api.fields import (
    MAX_REPORTED,
    PerTextOrPair,
    StrictBoolean,
    Text,
    Texts,
    TextsNotTokenIds,
    dimension,
    max_texts,
)
from embedding_api.encoder.model_files import DEFAULT_MODEL


class StrictSchema(Schema):
    """A request whose unknown fields are errors that name the field that was probably meant.

    Attributes:
        examples: requests by what they show; the first one stands in error messages.
    """

    examples: dict[str, dict]

    @property
    def example_json(self):
        return orjson.dumps(next(iter(self.examples.values()))).decode()

    def on_bind_field(self, field_name, field_obj):
        # Clients and gateways send null for what they leave out.
        if not field_obj.required:
            field_obj.allow_none = True

    @pre_load
    def _without_nulls(self, data, **kwargs):
        if not isinstance(data, dict):
            return data
        optional = {name for name, field in self.fields.items() if not field.required}
        return {name: value for name, value in data.items() if value is not None or name not in optional}

    def check_raw(self, body):
        """Raise a more exact `ApiError`, if there is one, for a body (bytes) that has too many values to parse it."""
        for field in self.fields.values():
            if isinstance(field, TextsNotTokenIds):
                field.check_raw(body)

    def handle_error(self, error, data, **kwargs):
        if isinstance(data, dict):
            names = islice((name for name in data if name not in self.fields), MAX_REPORTED)
            unknown = {name: [self._unknown(name)] for name in names}
            # First, because a misspelt field is why another one is missing.
            error.messages = unknown | {name: error.messages[name] for name in error.messages if name not in unknown}
        else:
            error.messages = {"_schema": [f"The body must be a JSON object, such as {self.example_json}."]}

    def _unknown(self, name):
        near = get_close_matches(name[:100].lower(), self.fields, n=1)
        known = ", ".join(self.fields)
        return f"Unknown field. Did you mean '{near[0]}'?" if near else f"Unknown field. The fields are: {known}."


TEXTS = {"description": "One text, or a list of them. None may be blank."}
MODEL = {"description": "Any name, unless the service takes its own only. Answers have the name served."}
TRUNCATE = "Longer texts than the model reads are cut, and the headers say which; `false` makes them an error."


class EmbedRequest(StrictSchema):
    examples = {
        "documents": {"texts": ["A cat sat on the mat.", "Stocks fell on Monday."]},
        "query": {"texts": "where did the cat sit?", "is_query": True},
    }

    texts = Texts(required=True, metadata=TEXTS)
    normalize = StrictBoolean(
        load_default=True, metadata={"description": "Vectors of length 1; `false`: as the model gives them."}
    )
    is_query = StrictBoolean(
        load_default=None,
        metadata={"description": "The texts are what is searched with, and get the model's query prompt."},
    )
    truncate = StrictBoolean(load_default=True, metadata={"description": TRUNCATE})


class TokenizeRequest(StrictSchema):
    examples = {"texts": {"texts": ["Stocks fell on Monday.", "🦀"]}}

    texts = Texts(required=True, metadata=TEXTS)
    is_query = StrictBoolean(load_default=False, metadata={"description": "With the model's query prompt before each."})


class SimilarityRequest(StrictSchema):
    examples = {
        "a query and texts": {
            "query": "where did the cat sit?",
            "texts": ["Stocks fell on Monday.", "A cat sat on the mat."],
            "rank": True,
        },
        "texts and each other": {"texts": ["A cat sat on the mat.", "The kitten lay on a rug.", "Stocks fell."]},
    }

    query = Text(metadata={"description": "What the texts are compared with; without it, each with each."})
    texts = Texts(required=True, metadata=TEXTS)
    rank = StrictBoolean(load_default=False, metadata={"description": "Also answer the order, best first."})
    truncate = StrictBoolean(load_default=True, metadata={"description": TRUNCATE})

    @validates_schema
    def _not_too_many_pairs(self, data, **kwargs):
        # The answer has a number for each pair: no more than the largest answer of /embed.
        limit = isqrt(max_texts() * dimension())
        if "query" not in data and len(data["texts"]) > limit:
            message = f"Holds {len(data['texts'])} texts; at most {limit} are compared with each other. Send fewer."
            raise ValidationError(message, "texts")


class ResponseSchema(Schema):
    """A response, only described: views do not dump through it, as marshmallow would handle each number in Python.

    Attributes:
        examples: responses by what they show.
    """

    examples: dict[str, dict]

    class Meta:
        # A later version may add fields.
        unknown = EXCLUDE


VECTOR = [0.03016708, -0.015151003, 0.015318161]


def array(inner, description):
    return fields.List(inner, required=True, metadata={"description": description})


class EmbedResponse(ResponseSchema):
    examples = {"the first numbers of it": {"embeddings": [VECTOR], "model": DEFAULT_MODEL, "dimension": 384}}

    embeddings = array(fields.List(fields.Float()), "A vector for each text, in their order.")
    model = fields.String(required=True)
    dimension = fields.Integer(required=True, metadata={"description": "Numbers in a vector."})


class _Tokens(ResponseSchema):
    ids = array(fields.Integer(), "What the model reads of the text, special tokens included.")
    count = fields.Integer(
        required=True, metadata={"description": "Tokens of the whole text, special tokens included."}
    )
    truncated = fields.Boolean(required=True, metadata={"description": "Whether the model reads less than that."})
    unknown = fields.Integer(  # type: ignore[assignment]  # marshmallow takes fields out of the class
        required=True, metadata={"description": "How many of the ids stand for what the model has no token for."}
    )


class TokenizeResponse(ResponseSchema):
    examples = {
        "texts": {
            "tokens": [
                {"ids": [101, 15768, 3062, 2006, 6928, 1012, 102], "count": 7, "truncated": False, "unknown": 0},
                {"ids": [101, 100, 102], "count": 3, "truncated": False, "unknown": 1},
            ],
            "model": DEFAULT_MODEL,
            "max_length": 512,
        }
    }

    tokens = array(fields.Nested(_Tokens), "Those of each text, in their order.")
    model = fields.String(required=True)
    max_length = fields.Integer(required=True, metadata={"description": "The most tokens that the model reads."})


class SimilarityResponse(ResponseSchema):
    examples = {
        "a query and texts": {"scores": [0.388442, 0.729456], "ranking": [1, 0], "model": DEFAULT_MODEL},
        "texts and each other": {
            "scores": [[1.0, 0.758911, 0.418196], [0.758911, 1.0, 0.363983], [0.418196, 0.363983, 1.0]],
            "model": DEFAULT_MODEL,
        },
    }

    scores = PerTextOrPair(
        "number", "The cosine similarity of each text to the query; without one, of each text to each."
    )
    ranking = PerTextOrPair(
        "integer",
        "Only with `rank`: the indexes of the texts, best first; without a query, for each text the others'.",
        required=False,
    )
    model = fields.String(required=True)


class _Error(ResponseSchema):
    message = fields.String(required=True, metadata={"description": "What is wrong and how to mend it."})
    type = fields.String(required=True, validate=validate.OneOf(["invalid_request_error", "server_error"]))
    param = fields.String(required=True, allow_none=True, metadata={"description": "The field at fault."})
    code = fields.String(required=True, metadata={"description": "A short name for programs."})
    details = fields.Raw(
        required=True, allow_none=True, metadata={"description": "More, such as a list of all fields at fault."}
    )


class ErrorResponse(ResponseSchema):
    """What every error looks like: OpenAI's shape, so that its clients understand it, plus `details`."""

    error = fields.Nested(_Error, required=True)
