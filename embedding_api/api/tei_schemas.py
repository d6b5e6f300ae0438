"""Requests and responses of text-embeddings-inference (https://huggingface.github.io/text-embeddings-inference)."""

from marshmallow import fields, validate

from embedding_api.api.fields import Dimensions, PromptName, StrictBoolean, TextsNotTokenIds
from embedding_api.api.schemas import TEXTS, TRUNCATE, VECTOR, ResponseSchema, StrictSchema


class TEIEmbedRequest(StrictSchema):
    examples = {
        "documents, as text-embeddings-inference has them": {
            "inputs": ["A cat sat on the mat.", "Stocks fell on Monday."],
        },
        "a query, as text-embeddings-inference has it": {"inputs": "where did the cat sit?", "prompt_name": "query"},
    }

    inputs = TextsNotTokenIds(required=True, metadata=TEXTS)
    normalize = StrictBoolean(load_default=True, metadata={"description": "Vectors of length 1."})
    prompt_name = PromptName(
        load_default=None, metadata={"description": "`query` puts the model's query prompt before each text."}
    )
    truncate = StrictBoolean(load_default=True, metadata={"description": TRUNCATE})
    truncation_direction = fields.String(
        load_default="right",
        validate=validate.OneOf(["right", "Right"], error="Must be right: texts are cut at their end only."),
        metadata={"description": "Where texts are cut."},
    )
    dimensions = Dimensions(load_default=None, metadata={"description": "Only what the model has anyway."})


class TEIEmbedResponse(ResponseSchema):
    """A vector for each text, in their order, and nothing around them."""

    # The only answer that is no object.
    examples = {"as text-embeddings-inference has it": [VECTOR]}  # type: ignore[dict-item]
    json_schema = {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}


class TEIErrorResponse(ResponseSchema):
    examples = {"no text": {"error": "inputs: Missing.", "error_type": "validation"}}

    error = fields.String(required=True, metadata={"description": "What is wrong and how to mend it."})
    error_type = fields.String(
        required=True,
        validate=validate.OneOf(["backend", "empty", "overloaded", "unhealthy", "validation"]),
    )
