"""What requests and responses look like."""

from difflib import get_close_matches

from flask import current_app
from marshmallow import Schema, ValidationError, fields

# A request can hold thousands of wrong texts; so many are named.
MAX_NAMED = 20


class StrictSchema(Schema):
    """A request whose unknown fields are errors that name the field that was probably meant."""

    error_messages = {"type": 'The body must be a JSON object, such as {"texts": "hello world"}.'}

    def handle_error(self, error, data, **kwargs):
        if isinstance(data, dict):
            unknown = {name: [self._unknown(name)] for name in data if name not in self.fields}
            # First, because a misspelt field is why another one is missing.
            error.messages = unknown | {name: error.messages[name] for name in error.messages if name not in unknown}

    def _unknown(self, name):
        near = get_close_matches(name[:100].lower(), self.fields, n=1)
        known = ", ".join(self.fields)
        return f"Unknown field. Did you mean '{near[0]}'?" if near else f"Unknown field. The fields are: {known}."


class StrictBoolean(fields.Field):
    """JSON's true or false; marshmallow's own Boolean also takes 1, "on" and "yes"."""

    default_error_messages = {"invalid": "Must be true or false.", "null": "Must be true or false."}

    def _deserialize(self, value, attr, data, **kwargs):
        if not isinstance(value, bool):
            raise self.make_error("invalid")
        return value


class Texts(fields.Field):
    """One string or a list of strings, none of them blank; always loaded as a list."""

    default_error_messages = {
        "required": 'Missing. Send a string or a list of strings, such as {{"texts": ["hello", "world"]}}.',
        "null": "Must be a string or a list of strings.",
        "invalid": "Must be a string or a list of strings.",
        "empty": "Must hold at least one text.",
        "too_many": "Holds {count} texts; one request takes at most {limit}. Send them in several requests.",
    }

    def _deserialize(self, value, attr, data, **kwargs):
        if isinstance(value, str):
            if not value.strip():
                raise ValidationError("Must not be blank.")
            return [value]
        if not isinstance(value, list):
            raise self.make_error("invalid")
        if not value:
            raise self.make_error("empty")
        limit = current_app.extensions["settings"].max_texts
        if len(value) > limit:
            raise self.make_error("too_many", count=len(value), limit=limit)
        mistakes = {}
        for index, text in enumerate(value):
            if not isinstance(text, str):
                mistakes[index] = ["Must be a string."]
            elif not text.strip():
                mistakes[index] = ["Must not be blank."]
            if len(mistakes) == MAX_NAMED:
                break
        if mistakes:
            raise ValidationError(mistakes)
        return value


class EmbedRequest(StrictSchema):
    texts = Texts(required=True)
    normalize = StrictBoolean(load_default=True)
    is_query = StrictBoolean(load_default=False)
    truncate = StrictBoolean(load_default=True)


class EmbedResponse(Schema):
    """What /embed answers. Only described here: dumping through it would touch every number."""

    embeddings = fields.List(fields.List(fields.Float()), required=True)
    model = fields.String(required=True)
    dimension = fields.Integer(required=True)
