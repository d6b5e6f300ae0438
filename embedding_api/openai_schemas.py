"""OpenAI's requests and responses (https://platform.openai.com/docs/api-reference/embeddings)."""

from flask import current_app
from marshmallow import fields

from embedding_api.errors import ApiError
from embedding_api.fields import StrictBoolean, Texts, choice, dimension, model_name
from embedding_api.schemas import MODEL, TEXTS, TRUNCATE, VECTOR, ResponseSchema, StrictSchema, array


class OpenAIInput(Texts):
    """Texts as OpenAI's clients send them."""

    def _deserialize(self, value, attr, data, **kwargs):
        several = isinstance(value, list) and value and isinstance(value[0], list)
        ids = value[0] if several else value
        if isinstance(ids, list) and ids and type(ids[0]) is int:
            # They are numbers in another model's vocabulary: the vectors would be wrong, and nobody would know.
            message = "The input is token ids, which mean nothing to this model. Send texts."
            hint = "LangChain does with OpenAIEmbeddings(check_embedding_ctx_length=False)."
            raise ApiError("token_ids", f"{message} {hint}", param=self.name)
        return super()._deserialize(value, attr, data, **kwargs)


class Dimensions(fields.Field):
    """The length of the vectors, for those who want to say what it is anyway."""

    default_error_messages = {
        "invalid": "The vectors have {dimension} dimensions, and this model was not trained to have them cut."
        " Leave the field out, or send {dimension}."
    }

    def openapi(self):
        return {"type": ["integer", "null"], "enum": [dimension(), None]}

    def _deserialize(self, value, attr, data, **kwargs):
        # A float that is whole is an integer to JSON, and true is none.
        if isinstance(value, bool) or value != dimension():
            raise self.make_error("invalid", dimension=dimension())
        return value


class ServedModel(fields.String):
    """A model's name; whether it must be the right one is for the operator to say."""

    def openapi(self):
        return {"enum": [model_name(), None]} if _only_served() else {}

    def _deserialize(self, value, attr, data, **kwargs):
        name = super()._deserialize(value, attr, data, **kwargs)
        if _only_served():
            check_model(name)
        return name


def _only_served():
    return current_app.extensions["settings"].accept_models == "served"


def served_models():
    """The JSON schema of a model's name."""
    return {"type": "string", "enum": [model_name()]}


def check_model(name):
    """Raises ApiError where another model than the one that is served is asked for."""
    if name != model_name():
        message = f"The model '{name[:100]}' is not served here. Ask for '{model_name()}'."
        raise ApiError("model_not_found", message, param="model")


class OpenAIEmbeddingsRequest(StrictSchema):
    examples = {
        "documents": {"model": "BAAI/bge-small-en-v1.5", "input": ["A cat sat on the mat.", "Stocks fell on Monday."]},
        "query": {"model": "BAAI/bge-small-en-v1.5", "input": "where did the cat sit?", "input_type": "query"},
    }

    input = OpenAIInput(required=True, metadata=TEXTS)
    model = ServedModel(
        load_default=None, allow_none=True, metadata={"description": "Answers carry the name of the model served."}
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
    truncate = StrictBoolean(load_default=True, metadata={"description": f"{TRUNCATE} Not in OpenAI's API."})


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
            "model": MODEL,
            "usage": {"prompt_tokens": 9, "total_tokens": 9},
        }
    }

    object = fields.String(required=True)
    data = array(fields.Nested(OpenAIEmbedding), "An embedding for each text, in their order.")
    model = fields.String(required=True)
    usage = fields.Nested(OpenAIUsage, required=True)


class OpenAIModel(ResponseSchema):
    examples = {"the default": {"id": MODEL, "object": "model", "created": 1763856000, "owned_by": "BAAI"}}

    id = fields.String(required=True)
    object = fields.String(required=True)
    created = fields.Integer(required=True, metadata={"description": "When the service has loaded it, in Unix time."})
    owned_by = fields.String(required=True)


class OpenAIModels(ResponseSchema):
    examples = {"the default": {"object": "list", "data": [OpenAIModel.examples["the default"]]}}

    object = fields.String(required=True)
    data = array(fields.Nested(OpenAIModel), "The one model that is served.")
