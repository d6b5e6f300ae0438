"""Fields of requests and responses: how each is checked, and how the API's description puts that."""

import re

from flask import current_app
from marshmallow import ValidationError, fields, validate

from embedding_api.errors import ApiError

# The most fields or texts that an error or a header names: a request can have thousands.
MAX_REPORTED = 20

# Blank means that `str.strip()` leaves nothing. JSON Schema has JavaScript's regular expressions, whose `\s` lacks some
# characters and has the byte order mark; the pattern accounts for both.
_NOT_BLANK = {"type": "string", "pattern": r"[^\s\x1c-\x1f\x85]|\ufeff"}


class StrictBoolean(fields.Field):
    """JSON's true or false; marshmallow's own Boolean also takes 1, "on" and "yes"."""

    default_error_messages = {"invalid": "Must be true or false.", "null": "Must be true or false."}

    def openapi(self):
        return {"type": ["boolean", "null"] if self.allow_none else "boolean"}

    def _deserialize(self, value, attr, data, **kwargs):
        if not isinstance(value, bool):
            raise self.make_error("invalid")
        return value


class Text(fields.Field):
    """A string that is not blank."""

    default_error_messages = {"null": "Must be a string."}

    def openapi(self):
        return {**_NOT_BLANK, "type": ["string", "null"]} if self.allow_none else _NOT_BLANK

    def _deserialize(self, value, attr, data, **kwargs):
        if mistake := _mistake(value):
            raise ValidationError(mistake)
        return value


class Texts(fields.Field):
    """One string or a list of strings, none of them blank; always loaded as a list."""

    default_error_messages = {
        "required": 'Missing. Send a string or a list of strings, such as ["hello", "world"].',
        "null": "Must be a string or a list of strings.",
        "invalid": "Must be a string or a list of strings.",
        "empty": "Must hold at least one text.",
        "too_many": "Holds {count} texts; one request takes at most {limit}. Send them in several requests.",
    }

    def openapi(self):
        several = {"type": "array", "items": _NOT_BLANK, "minItems": 1, "maxItems": max_texts()}
        return {"anyOf": [_NOT_BLANK, several]}

    def _deserialize(self, value, attr, data, **kwargs):
        if isinstance(value, str):
            if mistake := _mistake(value):
                raise ValidationError(mistake)
            return [value]
        if not isinstance(value, list):
            raise self.make_error("invalid")
        if not value:
            raise self.make_error("empty")
        if len(value) > max_texts():
            raise self.make_error("too_many", count=len(value), limit=max_texts())
        mistakes = {}
        for index, text in enumerate(value):
            if mistake := _mistake(text):
                mistakes[index] = [mistake]
            if len(mistakes) == MAX_REPORTED:
                break
        if mistakes:
            raise ValidationError(mistakes)
        return value


class TextsNotTokenIds(Texts):
    """Texts, of clients that may send token ids, which raise an ApiError at once, whatever else is wrong."""

    def _deserialize(self, value, attr, data, **kwargs):
        if isinstance(value, list):
            first = next((item for item in value if item != []), None)
            if type(first[0] if isinstance(first, list) else first) is int:
                raise self._token_ids()
        return super()._deserialize(value, attr, data, **kwargs)

    def check_raw(self, body):
        """Raise their error for a body, as bytes, of too many values to parse it: a few documents are as many ids."""
        if re.search(rb'"%b"\s*:\s*\[[\s\[\],]*+\d' % self.name.encode(), body):
            raise self._token_ids()

    def _token_ids(self):
        # They are numbers in another model's vocabulary: the vectors would be silently wrong.
        message = "The input is token ids, which mean nothing to this model. Send texts."
        hint = "LangChain does with OpenAIEmbeddings(check_embedding_ctx_length=False)."
        return ApiError("token_ids", f"{message} {hint}", param=self.name)


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


class IsQuery(fields.Field):
    """What texts are, by one of some words: loaded as whether they are queries, or None for null.

    Args:
        words: by each word whether it means queries.
    """

    def __init__(self, words, description):
        super().__init__(load_default=None, metadata={"description": description})
        self._words = words

    def openapi(self):
        return {"enum": [*self._words, None]}

    def _deserialize(self, value, attr, data, **kwargs):
        if not isinstance(value, str) or value not in self._words:
            raise ValidationError(f"Must be one of {', '.join(self._words)}; nothing else is done here.")
        return self._words[value]


class PromptName(fields.Field):
    """The name of one of the model's prompts: loaded as whether it is the one for queries, or None for null."""

    def openapi(self):
        return {"enum": [*_prompts(), None]}

    def _deserialize(self, value, attr, data, **kwargs):
        prompts = _prompts()
        if not isinstance(value, str) or value not in prompts:
            there = f"Those it has: {', '.join(prompts)}." if prompts else "It has none: leave the field out."
            raise ValidationError(f"The model has no prompt of this name. {there}")
        return prompts[value]


def _prompts():
    """By the name of each prompt that the model has, whether it is the one for queries."""
    encoder = current_app.extensions["encoder"]
    prompts = {"query": encoder.query_prompt, "document": encoder.document_prompt}
    return {name: name == "query" for name, prompt in prompts.items() if prompt}


class Ignored(fields.Raw):
    """What a client may send, and what makes no difference here."""

    def __init__(self):
        super().__init__(load_default=None, metadata={"description": "Taken, and not used."})


def _mistake(text):
    if not isinstance(text, str):
        return "Must be a string."
    # Not text.strip(), which copies it: a text can take 32 MB.
    return "Must not be blank." if not text or text.isspace() else None


def choice(default, *choices, **metadata):
    """A field that takes one of these strings, or null."""
    return fields.String(
        load_default=default,
        validate=validate.OneOf(choices, error=f"Must be {' or '.join(choices)}."),
        metadata=metadata,
    )


class PerTextOrPair(fields.Field):
    """A list with a number for each text; without a query, with a list of numbers for each."""

    def __init__(self, kind, description, required=True):
        super().__init__(required=required, metadata={"description": description})
        self._kind = kind

    def openapi(self):
        row = {"type": "array", "items": {"type": self._kind}}
        return {"anyOf": [row, {"type": "array", "items": row}]}


def max_texts():
    """The most texts in a request."""
    return current_app.extensions["settings"].max_texts


def dimension():
    """The length of a vector."""
    return current_app.extensions["encoder"].dimension
