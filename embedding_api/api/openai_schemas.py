"""OpenAI's requests and responses (https://platform.openai.com/docs/api-reference/embeddings)."""

import re

from marshmallow import fields

from embedding_api.api.fields import StrictBoolean, Texts, choice, dimension
from embedding_api.api.schemas import TEXTS, TRUNCATE, VECTOR, ResponseSchema, StrictSchema, array
from embedding_api.encoder.model_files import DEFAULT_MODEL
from embedding_api.errors import ApiError

_TOKEN_IDS = re.compile(rb'"input"\s*:\s*\[[\s\[\],]*+\d')


class OpenAIInput(Texts):
    """Texts as OpenAI's clients send them. Token ids raise an ApiError at once, whatever else is wrong."""

    def _deserialize(self, value, attr, data, **kwargs):
        if isinstance(value, list):
            first = next((item for item in value if item != []), None)
            if type(first[0] if isinstance(first, list) else first) is int:
                raise token_ids()
        return super()._deserialize(value, attr, data, **kwargs)


def token_ids():
    """The error for token ids: they are of another model's vocabulary, and the vectors would be silently wrong."""
    message = "The input is token ids, which mean nothing to this model. Send texts."
    hint = "LangChain does with OpenAIEmbeddings(check_embedding_ctx_length=False)."
    return ApiError("token_ids", f"{message} {hint}", param="input")


class Dimensions(fields.Field):
    """The length of the vectors. Only the model's own is taken."""

    default_error_messages = {
        "invalid": "The vectors have {dimension} dimensions, and this model was not trained to have them cut."
        " Leave the field out, or send {dimension}."
    }

    def openapi(self):
        return {"type": ["integer", "null"], "enum": [dimension(), None]}

    def _deserialize(self, value, attr, data, **kwargs):
        # In JSON 384.0 is an integer, and true is none; in Python True is 1.
        if isinstance(value, bool) or value != dimension():
            raise self.make_error("invalid", dimension=dimension())
        return value


class OpenAIEmbeddingsRequest(StrictSchema):
    examples = {
        "documents": {"input": ["A cat sat on the mat.", "Stocks fell on Monday."]},
        "query": {"input": "where did the cat sit?", "input_type": "query"},
    }

    input = OpenAIInput(required=True, metadata=TEXTS)
    model = fields.String(
        load_default=None,
        allow_none=True,
        metadata={"description": "Any name, unless the service takes its own only. Answers have the name served."},
    )
    encoding_format = choice(
        "float", "float", "base64", description="`base64`: the bytes of little-endian float32 numbers."
    )
    dimensions = Dimensions(
        load_default=None, allow_none=True, metadata={"description": "Only what the model has anyway."}
    )
    user = fields.String(load_default=None, allow_none=True, metadata={"description": "Taken, and not used."})
    input_type = choice(
        "document",
        "query",
        "document",
        description="What is searched with, or in; not in OpenAI's API. A query gets the model's query prompt.",
    )
    truncate = StrictBoolean(
        load_default=True, allow_none=True, metadata={"description": f"{TRUNCATE} Not in OpenAI's API."}
    )

    def check_raw(self, body):
        # A few documents can have more token ids than a body may have values.
        if _TOKEN_IDS.search(body):
            raise token_ids()


class _Vector(fields.Field):
    """A vector, as a list of numbers or in base64."""

    def openapi(self):
        return {"anyOf": [{"type": "array", "items": {"type": "number"}}, {"type": "string", "format": "byte"}]}


class OpenAIEmbedding(ResponseSchema):
    object = fields.String(required=True)
    index = fields.Integer(required=True)
    embedding = _Vector(required=True)


class OpenAIUsage(ResponseSchema):
    prompt_tokens = fields.Integer(required=True, metadata={"description": "Tokens that were computed."})
    total_tokens = fields.Integer(required=True)


class OpenAIEmbeddingsResponse(ResponseSchema):
    examples = {
        "the first numbers of it": {
            "object": "list",
            "data": [{"object": "embedding", "index": 0, "embedding": VECTOR}],
            "model": DEFAULT_MODEL,
            "usage": {"prompt_tokens": 9, "total_tokens": 9},
        }
    }

    object = fields.String(required=True)
    data = array(fields.Nested(OpenAIEmbedding), "An embedding for each text, in their order.")
    model = fields.String(required=True)
    usage = fields.Nested(OpenAIUsage, required=True)


class OpenAIModel(ResponseSchema):
    examples = {"the default": {"id": DEFAULT_MODEL, "object": "model", "created": 1763856000, "owned_by": "BAAI"}}

    id = fields.String(required=True)
    object = fields.String(required=True)
    created = fields.Integer(required=True, metadata={"description": "When the service has loaded it, in Unix time."})
    owned_by = fields.String(required=True)


class OpenAIModels(ResponseSchema):
    examples = {"the default": {"object": "list", "data": [OpenAIModel.examples["the default"]]}}

    object = fields.String(required=True)
    data = array(fields.Nested(OpenAIModel), "The one model that is served.")
