"""Rows that are JSON objects, one a line. A line stays as it is; only an output of columns takes it apart."""

import json
import math
from contextlib import suppress
from itertools import chain

import orjson
import pyarrow as pa

from embedding_api.bulk.checkpoint import EMBEDDING
from embedding_api.bulk.source import MOST_LETTERS, InputError, RowError, no_column, not_utf_8
from embedding_api.bulk.window import Rows, grouped, text_or_none

_WHITE_SPACE = b" \t\r\n"  # of JSON's grammar
# A whole number that 64 bits may not hold has so many digits.
_MANY_DIGITS, _ANY_DIGIT = b"0" * 19, bytes.maketrans(b"123456789", b"0" * 9)
# In the metadata of a table: its one column holds lines of JSON. In those of a field: other values became its text.
_LINES, TURNED = {b"embedding_api.rows": b"json"}, {b"embedding_api.turned": b"yes"}
# Of so many lists in each other orjson surely writes all; it refuses more than 254.
_SURELY_NOT_DEEP = 200
# Values that are nested deeper are stored as JSON text.
_DEEPEST = 30


def read(source, column, on_bad_row):
    """The rows of a file of JSON lines, as `Rows`; empty lines are none. For the arguments see `inputs.READERS`."""
    known = False
    for rows in grouped(_rows(source, on_bad_row)):
        numbers, lines, objects = zip(*rows, strict=True)
        if not known:
            names = dict.fromkeys(name for row in objects for name in row)
            known = column in names
            if names and not known:
                raise no_column(column, names)
        yield Rows(as_table(lines), [text_or_none(row.get(column)) for row in objects], list(numbers))


def _rows(source, on_bad_row):
    for number, line in source.lines():
        line = line.strip(_WHITE_SPACE)
        if not line:
            continue
        try:
            row = parse(line)
            if EMBEDDING in row:
                raise RowError(f"has a field {EMBEDDING!r} already, which the output adds", "rename it")
        except RowError as error:
            if number == 1 and line.startswith(b"["):
                raise InputError("begins with a list, not with an object: 'jq -c .[]' makes JSON lines of it") from None
            if not on_bad_row(number, error):
                continue
            line, row = b"{}", {}
        yield (number, line, row), len(line)


def parse(line):
    """A line's object. Numbers that 64 bits do not hold may be inexact or a `Fragment` here.

    Raises:
        RowError: it is not an object in JSON, in UTF-8, with every key once.
    """
    try:
        row = orjson.loads(line)
        if isinstance(row, dict) and _has_no_key_twice(line, row):
            return row
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        pass
    return _parse_slowly(line)


def _has_no_key_twice(line, row):
    # Each key of the line has a colon. Of two equal keys one is lost here, and its colon with it, unless one that is
    # escaped, \u003a, stands in for it.
    if line.count(b":") == len(row) and line.count(b"[") < _SURELY_NOT_DEEP:
        return True
    return line.count(b":") == orjson.dumps(row).count(b":") and b"\\u003" not in line


def _parse_slowly(line):
    """Like `parse`, but it says what is wrong, and each number is exact: an int, a float or a `Fragment`."""
    try:
        row = json.loads(
            line.decode(),
            object_pairs_hook=_object,
            parse_int=_whole_number,
            parse_float=_float,
            parse_constant=_constant,
        )
        # It has the stricter rules, of which the first reading knows nothing.
        orjson.dumps(row)
    except UnicodeDecodeError:
        raise not_utf_8(line, "convert it with 'iconv -f windows-1252 -t utf-8'") from None
    except json.JSONDecodeError as error:
        raise RowError(f"is not valid JSON ({error.msg}, character {error.pos + 1})") from None
    except (RecursionError, orjson.JSONEncodeError) as error:
        if "ecursion" in str(error):
            raise RowError("has values that are nested too deeply") from None
        raise RowError(r"has half a character (\ud800 to \udfff without its other half)") from None
    if not isinstance(row, dict):
        raise RowError("is not a JSON object")
    return row


def _object(pairs):
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RowError(f"has the key {twice[:MOST_LETTERS]!a} twice")
    return row


def _whole_number(digits):
    # Python itself refuses to read thousands of digits.
    if len(digits) <= 20 and -(2**63) <= int(digits) < 2**64:
        return int(digits)
    return orjson.Fragment(digits.encode())


def _float(digits):
    number = float(digits)
    return number if math.isfinite(number) else orjson.Fragment(digits.encode())


def _constant(name):
    raise RowError(f"has {name}, which JSON does not know")


def as_table(lines):
    """A table of lines of JSON, unchanged: it has one column, of bytes, and says in its metadata what that is."""
    return pa.table({"json": pa.array(lines, pa.binary())}).replace_schema_metadata(_LINES)


def are_lines(table):
    """Whether a table, or a part, has lines of JSON instead of columns."""
    return _LINES.items() <= (table.schema.metadata or {}).items()


def to_columns(table):
    """A part of lines of JSON as a part with a column for each key; the vectors are the same.

    Values of a column without a common type become JSON text, except strings, and None, which stay as they are. So do
    numbers of more than 64 bits. The field's metadata then say `TURNED`, as they do where whole numbers become floats.
    """
    rows = _exact_objects(table.column("json").to_pylist())
    names = dict.fromkeys(chain.from_iterable(rows))
    columns = [_column(name, [row.get(name) for row in rows]) for name in names]
    fields = [field for field, _ in columns] + [table.schema.field(EMBEDDING)]
    return pa.table([array for _, array in columns] + [table.column(EMBEDDING)], schema=pa.schema(fields))


def to_schema(table, schema):
    """A part of lines of JSON as a part with the columns of a schema that `to_columns` of all parts has led to.

    It is made of the lines, as `to_columns` may have changed values for a type that does not last: 1 to 1.0.
    """
    rows = _exact_objects(table.column("json").to_pylist())
    columns = [
        table.column(EMBEDDING)
        if field.name == EMBEDDING
        else _of_type([row.get(field.name) for row in rows], field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _of_type(values, type):
    try:
        return pa.array(values, type)
    except pa.ArrowException:
        # It is a type of text.
        return pa.array(as_json(values), pa.string()).cast(type)


def _exact_objects(lines):
    """The objects of lines that `parse` has read before."""
    together = b"[%s]" % b",".join(lines)
    if _MANY_DIGITS not in together.translate(_ANY_DIGIT):
        # It fails where a number has an exponent that no float has.
        with suppress(orjson.JSONDecodeError):
            return orjson.loads(together)
    return [_parse_slowly(line) for line in lines]


def _column(name, values):
    try:
        array = pa.array(values)
    except (pa.ArrowException, OverflowError):
        array = None
    if array is None or not storable(array.type):
        array, turned = pa.array(as_json(values), pa.string()), True
    else:
        turned = pa.types.is_floating(array.type) and any(isinstance(value, int) for value in values)
    return pa.field(name, array.type, metadata=TURNED if turned else None), array


def storable(type, depth=0):
    """Whether files can hold a type: Parquet has no structs without fields, and Arrow's files limit the nesting."""
    if depth > _DEEPEST or (pa.types.is_struct(type) and not type.num_fields):
        return False
    return all(storable(type.field(index).type, depth + 1) for index in range(type.num_fields))


def as_json(values):
    """Values as JSON text; strings and None stay as they are."""
    return [value if value is None or isinstance(value, str) else to_json(value).decode() for value in values]


def to_json(value, option=None):
    """A value as JSON. Bytes become hexadecimal digits; other types that JSON lacks, such as decimals, strings."""
    return orjson.dumps(value, default=_other, option=option)


def _other(value):
    return value.hex() if isinstance(value, bytes) else str(value)
