"""Make the output of a run's parts: Parquet, NumPy's format, or lines of JSON."""

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from embedding_api.bulk import BulkError, json_lines
from embedding_api.bulk.checkpoint import EMBEDDING

# Parts that make a row group of Parquet: some 25 MB of vectors.
_PARTS_IN_GROUP = 16
_FIELD = EMBEDDING.encode()


def check_format(output):
    """The function that writes an output's format, one of those below.

    Raises:
        BulkError: its ending tells none.
    """
    if output.suffix.lower() not in _WRITERS:
        raise BulkError(f"{output} has none of the endings that tell the output's format: {', '.join(_WRITERS)}.")
    return _WRITERS[output.suffix.lower()]


def write_parquet(file, tables, metadata):
    """All rows with all columns, the vectors as fixed-size lists.

    Args:
        file: the open output.
        tables: a function that returns the parts' tables, one by one.
        metadata: what the file's own metadata say of the vectors.

    Returns:
        the columns whose values are not those of the input, and what they were turned into, by name.
    """
    schema, turned = _common_schema(lambda: map(_in_columns, tables()), metadata)
    # Vectors get no dictionary, as hardly two are equal, and no compression, as they do not become smaller.
    others = [name for name in schema.names if name != EMBEDDING]
    compression = dict.fromkeys(others, "zstd") | {EMBEDDING: "none"}
    with pa.parquet.ParquetWriter(file, schema, compression=compression, use_dictionary=others) as writer:
        group = []
        for table in tables():
            group.append(_as(table, schema))
            if len(group) == _PARTS_IN_GROUP:
                writer.write_table(pa.concat_tables(group))
                group = []
        if group:
            writer.write_table(pa.concat_tables(group))
    return turned


def write_npy(file, tables, metadata):
    """The vectors alone, an array of shape (rows, dimension); those of rows without text are NaN."""
    kind = next(tables()).schema.field(EMBEDDING).type
    header = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(kind.value_type.to_pandas_dtype())),
        "fortran_order": False,
        "shape": (sum(len(table) for table in tables()), kind.list_size),
    }
    np.lib.format.write_array_header_1_0(file, header)
    for table in tables():
        file.write(_vectors(table))
    return {}


def write_jsonl(file, tables, metadata):
    """All rows with all fields, a JSON object a line. Lines that were JSON only get the vector, at their end."""
    turned = {}
    for table in tables():
        missing = table.column(EMBEDDING).is_null().to_pylist()
        # All at once, which is faster than one by one: "[[0.1,0.2],[0.3,0.4]]".
        numbers = orjson.dumps(_vectors(table), option=orjson.OPT_SERIALIZE_NUMPY)[2:-2].split(b"],[")
        if json_lines.are_lines(table):
            lines = table.column("json").to_pylist()
        else:
            table, turned_here = _as_json_knows(table.drop_columns([EMBEDDING]))
            turned |= turned_here
            lines = map(json_lines.to_json, table.to_pylist())
        file.writelines(map(_with_vector, lines, numbers, missing))
    return turned


_WRITERS = {".parquet": write_parquet, ".npy": write_npy, ".jsonl": write_jsonl}


def _with_vector(line, numbers, is_missing):
    """An object in JSON with one field more, and the end of the line."""
    fields = line[:-1].rstrip()
    comma = b"" if fields == b"{" else b","
    return b'%s%s"%s":%s}\n' % (fields, comma, _FIELD, b"null" if is_missing else b"[%s]" % numbers)


def _as_json_knows(table):
    """A table whose values JSON can hold, and what columns had to be turned into."""
    turned = {}
    for index, field in enumerate(table.schema):
        if _has_infinite(table.column(index)):
            turned[field.name] = "null where it was NaN or infinite"
        elif _has_other_type(field.type):
            turned[field.name] = "strings"
        if field.type in (pa.time64("ns"), pa.timestamp("ns", getattr(field.type, "tz", None))):
            # Python's own times have no nanoseconds.
            table = table.set_column(index, field.name, table.column(index).cast(pa.string()))
    return table, turned


def _has_infinite(column):
    """Whether a column, or its lists and structs, have a number that is NaN or infinite."""
    if pa.types.is_floating(column.type):
        finite = pa.compute.is_finite(column.cast(pa.float64()))
        return pa.compute.any(pa.compute.invert(finite)).as_py()
    if pa.types.is_struct(column.type):
        return any(map(_has_infinite, column.flatten()))
    is_list = pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list
    return any(kind(column.type) for kind in is_list) and _has_infinite(pa.compute.list_flatten(column))


def _has_other_type(type):
    """Whether values of a type become strings in JSON."""
    kinds = pa.types.is_temporal, pa.types.is_decimal, pa.types.is_binary, pa.types.is_large_binary
    if any(kind(type) for kind in (*kinds, pa.types.is_fixed_size_binary, pa.types.is_binary_view)):
        return True
    return any(_has_other_type(type.field(index).type) for index in range(type.num_fields))


def _vectors(table):
    column = table.column(EMBEDDING).combine_chunks()
    return column.values.to_numpy().reshape(len(table), column.type.list_size)


def _in_columns(table):
    return json_lines.to_columns(table) if json_lines.are_lines(table) else table


def _common_schema(tables, metadata):
    """All fields of all parts, and what fields had to be turned into. Types with nothing in common become text."""
    types, turned_in_parts, pandas = {}, set(), None
    for table in tables():
        # Metadata of pandas, such as which column is the index, are still right.
        pandas = pandas or {key: value for key, value in (table.schema.metadata or {}).items() if key == b"pandas"}
        for field in table.schema:
            types.setdefault(field.name, set()).add(field.type)
            if json_lines.TURNED.items() <= (field.metadata or {}).items():
                turned_in_parts.add(field.name)
    embedding = pa.field(EMBEDDING, *types.pop(EMBEDDING))
    common = {name: _common_type(kinds) for name, kinds in types.items()}
    several = [name for name, kinds in types.items() if len(kinds) > 1 and common[name] != pa.string()]
    for table in tables() if several else ():
        for name in several:
            if name in table.column_names and not _can_cast(table.column(name), common[name]):
                common[name] = pa.string()
    turned = {
        name: "text (strings as they are, other values as JSON)" if common[name] == pa.string() else str(common[name])
        for name, kinds in types.items()
        if name in turned_in_parts or len(kinds - {pa.null()}) > 1
    }
    schema = pa.schema([*(pa.field(name, type) for name, type in common.items()), embedding], (pandas or {}) | metadata)
    return schema, turned


def _common_type(types):
    types = sorted(types, key=str)
    try:
        schemas = [pa.schema([("", type)]) for type in types]
        common = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return pa.string()
    return common if json_lines.storable(common) else pa.string()


def _can_cast(column, type):
    """Whether a column can be of another type: a long whole number, for example, may equal no float."""
    try:
        column.cast(type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return False
    return True


def _as(table, schema):
    """A part with all the fields of the schema."""
    if json_lines.are_lines(table):
        return json_lines.to_schema(table, schema)
    return pa.table([_column(table, field) for field in schema], schema=schema)


def _column(table, field):
    if field.name not in table.column_names:
        return pa.nulls(len(table), field.type)
    column = table.column(field.name)
    if column.type == field.type:
        return column
    if field.type == pa.string():
        return pa.array(json_lines.as_json(column.to_pylist()), pa.string())
    return column.cast(field.type)
