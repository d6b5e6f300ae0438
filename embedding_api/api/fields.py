"""Fields of requests and responses: how each is checked, and how the API's description puts that."""

from flask import current_app
from marshmallow import ValidationError, fields, validate

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
        return _NOT_BLANK

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


def _mistake(text):
    if not isinstance(text, str):
        return "Must be a string."
    # Not text.strip(), which copies it: a text can take 32 MB.
    return "Must not be blank." if not text or text.isspace() else None


def choice(default, *choices, **metadata):
    """A field that takes one of these strings, or null."""
    return fields.String(
        load_default=default,
        allow_none=True,
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
