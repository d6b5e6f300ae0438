"""Make the output of a run's parts: Parquet, NumPy's format, or lines of JSON."""

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet

from embedding_api.bulk import BulkError
from embedding_api.bulk.checkpoint import EMBEDDING
from embedding_api.bulk.inputs import as_json, storable, to_json

# Parts that make a row group of Parquet: some 25 MB of vectors.
_PARTS_IN_GROUP = 16


def check_format(output):
    """The function that writes an output's format, one of those below.

    Raises:
        BulkError: its ending is that of no format.
    """
    if output.suffix not in _WRITERS:
        raise BulkError(f"{output} has none of the endings that tell the output's format: {', '.join(_WRITERS)}.")
    return _WRITERS[output.suffix]


def write_parquet(file, tables, schemas, metadata):
    """All rows with all columns, the vectors as fixed-size lists.

    Args:
        file: the open output.
        tables: a function that returns the parts' tables, one by one.
        schemas: the parts' schemas, in their order.
        metadata: a dictionary that is added to the file's metadata.
    """
    schema = _common_schema(tables, schemas, metadata)
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


def write_npy(file, tables, schemas, metadata):
    """The vectors alone, an array of shape (rows, dimension); those of rows without text are NaN."""
    kind = schemas[0].field(EMBEDDING).type
    header = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(kind.value_type.to_pandas_dtype())),
        "fortran_order": False,
        "shape": (sum(len(table) for table in tables()), kind.list_size),
    }
    np.lib.format.write_array_header_1_0(file, header)
    for table in tables():
        file.write(_vectors(table))


def write_jsonl(file, tables, schemas, metadata):
    """All rows with all fields, a JSON object a line."""
    for table in tables():
        missing = table.column(EMBEDDING).is_null().to_pylist()
        rows = table.drop_columns([EMBEDDING]).to_pylist()
        for row, vector, is_missing in zip(rows, _vectors(table), missing, strict=True):
            row[EMBEDDING] = None if is_missing else vector
            file.write(to_json(row, orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE))


_WRITERS = {".parquet": write_parquet, ".npy": write_npy, ".jsonl": write_jsonl}


def _vectors(table):
    column = table.column(EMBEDDING).combine_chunks()
    return column.values.to_numpy().reshape(len(table), column.type.list_size)


def _common_schema(tables, schemas, metadata):
    """All fields of all parts. A field whose types have nothing in common becomes text."""
    names = list(dict.fromkeys(name for schema in schemas for name in schema.names if name != EMBEDDING))
    fields = [pa.field(name, _common_type(tables, schemas, name)) for name in names]
    # Metadata of pandas, such as which column is the index, are still right.
    noted = {key: value for key, value in (schemas[0].metadata or {}).items() if key == b"pandas"}
    return pa.schema([*fields, schemas[0].field(EMBEDDING)], noted | metadata)


def _common_type(tables, schemas, name):
    types = sorted({schema.field(name).type for schema in schemas if name in schema.names}, key=str)
    try:
        common = pa.unify_schemas([pa.schema([("", type)]) for type in types], promote_options="permissive")
        common = common.field(0).type
        if len(types) > 1:
            # Try the casts: a long whole number, for example, may equal no float.
            for table in tables():
                if name in table.column_names:
                    table.column(name).cast(common)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return pa.string()
    return common if storable(common) else pa.string()


def _as(table, schema):
    """A part with all the fields of the schema."""
    return pa.table([_column(table, field) for field in schema], schema=schema)


def _column(table, field):
    if field.name not in table.column_names:
        return pa.nulls(len(table), field.type)
    column = table.column(field.name)
    if column.type == field.type:
        return column
    if field.type == pa.string():
        return pa.array(as_json(column.to_pylist()), pa.string())
    return column.cast(field.type)
