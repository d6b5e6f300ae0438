"""Requests and responses of Ollama (https://docs.ollama.com/api)."""

from marshmallow import fields

from embedding_api.api.fields import Dimensions, Ignored, StrictBoolean, Text, TextsNotTokenIds
from embedding_api.api.schemas import MODEL, TEXTS, TRUNCATE, VECTOR, ResponseSchema, StrictSchema, array
from embedding_api.encoder.model_files import DEFAULT_MODEL


class OllamaEmbedRequest(StrictSchema):
    examples = {"documents": {"model": DEFAULT_MODEL, "input": ["A cat sat on the mat.", "Stocks fell on Monday."]}}

    model = fields.String(load_default=None, metadata=MODEL)
    input = TextsNotTokenIds(required=True, metadata=TEXTS)
    truncate = StrictBoolean(load_default=True, metadata={"description": TRUNCATE})
    dimensions = Dimensions(load_default=None, metadata={"description": "Only what the model has anyway."})
    options = Ignored()
    keep_alive = Ignored()


class OllamaEmbeddingsRequest(StrictSchema):
    examples = {"a document": {"model": DEFAULT_MODEL, "prompt": "A cat sat on the mat."}}

    model = fields.String(load_default=None, metadata=MODEL)
    prompt = Text(required=True, metadata={"description": "One text."})
    options = Ignored()
    keep_alive = Ignored()


class _ModelRequest(StrictSchema):
    examples = {"the model": {"model": DEFAULT_MODEL}}

    model = fields.String(load_default=None, metadata=MODEL)
    name = fields.String(load_default=None, metadata={"description": "The same, as older clients put it."})


class OllamaShowRequest(_ModelRequest):
    verbose = Ignored()


class OllamaPullRequest(_ModelRequest):
    stream = Ignored()
    insecure = Ignored()


class OllamaEmbedResponse(ResponseSchema):
    examples = {
        "the first numbers of it": {
            "model": DEFAULT_MODEL,
            "embeddings": [VECTOR],
            "total_duration": 9_300_000,
            "load_duration": 0,
            "prompt_eval_count": 9,
        }
    }

    model = fields.String(required=True)
    embeddings = array(fields.List(fields.Float()), "A vector for each text, in their order.")
    total_duration = fields.Integer(required=True, metadata={"description": "Nanoseconds since the request was read."})
    load_duration = fields.Integer(required=True, metadata={"description": "0: the model is loaded at the start."})
    prompt_eval_count = fields.Integer(required=True, metadata={"description": "Tokens that were computed."})


class OllamaEmbeddingsResponse(ResponseSchema):
    examples = {"the first numbers of it": {"embedding": VECTOR}}

    embedding = array(fields.Float(), "The vector of the text.")


class _Details(ResponseSchema):
    parent_model = fields.String(required=True)
    format = fields.String(required=True)
    family = fields.String(required=True)
    families = array(fields.String(), "The same.")
    parameter_size = fields.String(required=True)
    quantization_level = fields.String(required=True, metadata={"description": "What the forward pass computes in."})


DETAILS = {
    "parent_model": "",
    "format": "safetensors",
    "family": "",
    "families": [],
    "parameter_size": "",
    "quantization_level": "F32",
}


class OllamaModel(ResponseSchema):
    examples = {
        "the default": {
            "name": DEFAULT_MODEL,
            "model": DEFAULT_MODEL,
            "modified_at": "2026-11-27T00:00:00Z",
            "size": 0,
            "digest": "5c38ec7c405ec4b44b94cc5a9bb96e735b38267a",
            "details": DETAILS,
        }
    }

    name = fields.String(required=True)
    model = fields.String(required=True)
    modified_at = fields.String(required=True, metadata={"description": "When the service has loaded it."})
    size = fields.Integer(required=True, metadata={"description": "Not known here: 0."})
    digest = fields.String(required=True, metadata={"description": "Its commit on the Hub, if that is known."})
    details = fields.Nested(_Details, required=True)


class OllamaTagsResponse(ResponseSchema):
    examples = {"the default": {"models": [OllamaModel.examples["the default"]]}}

    models = array(fields.Nested(OllamaModel), "The one model that is served.")


class OllamaVersionResponse(ResponseSchema):
    examples = {"this service's own": {"version": "0.1.0"}}

    version = fields.String(required=True)


class OllamaShowResponse(ResponseSchema):
    examples = {
        "the default": {
            "modelfile": "",
            "parameters": "",
            "template": "{{ .Prompt }}",
            "details": DETAILS,
            "model_info": {
                "general.architecture": "bert",
                "bert.context_length": 512,
                "bert.embedding_length": 384,
            },
            "capabilities": ["embedding"],
            "modified_at": "2026-11-27T00:00:00Z",
        }
    }

    modelfile = fields.String(required=True)
    parameters = fields.String(required=True)
    template = fields.String(required=True)
    details = fields.Nested(_Details, required=True)
    model_info = fields.Dict(required=True)
    capabilities = array(fields.String(), "What the model does: embedding.")
    modified_at = fields.String(required=True)


class OllamaPullResponse(ResponseSchema):
    examples = {"the model": {"status": "success"}}

    status = fields.String(required=True, metadata={"description": "success: the model is loaded at the start."})


class OllamaErrorResponse(ResponseSchema):
    examples = {"no text": {"error": "input: Missing."}}

    error = fields.String(required=True, metadata={"description": "What is wrong and how to mend it."})
