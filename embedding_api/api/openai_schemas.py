"""OpenAI's requests and responses (https://platform.openai.com/docs/api-reference/embeddings)."""

from marshmallow import ValidationError, fields, post_load, validate

from embedding_api.api.fields import (
    Dimensions,
    Ignored,
    IsQuery,
    PromptName,
    StrictBoolean,
    TextsNotTokenIds,
    choice,
)
from embedding_api.api.schemas import MODEL, TEXTS, TRUNCATE, VECTOR, ErrorResponse, ResponseSchema, StrictSchema, array
from embedding_api.encoder.model_files import DEFAULT_MODEL

# What texts are, in the words of Voyage and NVIDIA, of Cohere, and of Jina: whether they are queries.
_INPUT_TYPES = {
    "query": True,
    "document": False,
    "passage": False,
    "search_query": True,
    "search_document": False,
}
_TASKS = {"retrieval.query": True, "retrieval.passage": False}


class Truncate(fields.Field):
    """Whether texts may be cut: JSON's true or false, or NVIDIA's and Cohere's END or NONE; loaded as a boolean."""

    def openapi(self):
        return {"enum": [True, False, "END", "NONE", None]}

    def _deserialize(self, value, attr, data, **kwargs):
        if value in ("END", "NONE"):
            return value == "END"
        if not isinstance(value, bool):
            raise ValidationError("Must be true or false, or END or NONE: texts are cut at their end only.")
        return value


class OpenAIEmbeddingsRequest(StrictSchema):
    """What OpenAI's API takes, and what others have added to it.

    Loaded are `input`, a list; `encoding_format`; `model`; `is_query`, None where nothing says it; `truncate`; and
    `normalized`.
    """

    examples = {
        "documents": {"input": ["A cat sat on the mat.", "Stocks fell on Monday."]},
        "query": {"input": "where did the cat sit?", "input_type": "query"},
    }

    input = TextsNotTokenIds(required=True, metadata=TEXTS)
    model = fields.String(load_default=None, metadata=MODEL)
    encoding_format = choice(
        "float", "float", "base64", description="`base64`: the bytes of little-endian float32 numbers."
    )
    dimensions = Dimensions(metadata={"description": "Only what the model has anyway."})
    user = Ignored()
    input_type = IsQuery(
        _INPUT_TYPES, "What is searched with, or in, as Voyage, NVIDIA and Cohere put it; queries get the query prompt."
    )
    task = IsQuery(_TASKS, "The same, as Jina puts it.")
    prompt_name = PromptName(metadata={"description": "The same, as sentence-transformers puts it."})
    truncate = Truncate(metadata={"description": f"{TRUNCATE} NVIDIA and Cohere say `END` and `NONE`."})
    truncation = StrictBoolean(metadata={"description": "The same, as Voyage puts it."})
    output_dimension = Dimensions(metadata={"description": "As `dimensions`, as Voyage and Mistral put it."})
    output_dtype = choice("float", "float", description="As Voyage and Mistral put it.")
    embedding_type = choice("float", "float", description="The same, as Jina puts it.")
    normalized = StrictBoolean(
        load_default=True,
        metadata={"description": "As Jina puts it: vectors of length 1; `false`: as the model gives."},
    )
    late_chunking = StrictBoolean(
        validate=validate.Equal(False, error="Must be false: each text gets a vector by itself."),
        metadata={"description": "As Jina puts it; only `false`.", "enum": [False, None]},
    )
    metadata = Ignored()

    @post_load
    def _say_it_once(self, data, **kwargs):
        is_query = _agreed(data, "input_type", "task", "prompt_name")
        truncate = _agreed(data, "truncate", "truncation")
        return data | {"is_query": is_query, "truncate": truncate is not False}


def _agreed(data, *names):
    """The one value that these fields have, or None where none of them was sent."""
    sent = [name for name in names if data.get(name) is not None]
    if len({data[name] for name in sent}) > 1:
        raise ValidationError(f"{' and '.join(sent)} contradict each other. Send one of them.", sent[0])
    return data[sent[0]] if sent else None


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
            "id": "embd-3f0c8a9d1b5e4d7f8a6c2e1d0b9f8a7c",
            "object": "list",
            "data": [{"object": "embedding", "index": 0, "embedding": VECTOR}],
            "model": DEFAULT_MODEL,
            "usage": {"prompt_tokens": 9, "total_tokens": 9},
        }
    }

    id = fields.String(required=True, metadata={"description": "Made of the request's id; Mistral's client wants one."})
    object = fields.String(required=True)
    data = array(fields.Nested(OpenAIEmbedding), "An embedding for each text, in their order.")
    model = fields.String(required=True)
    usage = fields.Nested(OpenAIUsage, required=True)


class OpenAIErrorResponse(ErrorResponse):
    detail = fields.String(metadata={"description": "The message, where Voyage's and Jina's clients look for it."})


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
