"""Make the output of a run's parts: Parquet, NumPy's format, or lines of JSON."""

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet

from embedding_api.bulk import BulkError
from embedding_api.bulk.parts import EMBEDDING, parts_folder
from embedding_api.bulk.reading import as_json, has_empty_struct, to_json

# Parts that make a row group of Parquet: some 25 MB of vectors.
_PARTS_IN_GROUP = 16


def check_output(path):
    """Before any work is done.

    Raises:
        BulkError: the output cannot be written there.
    """
    if path.suffix not in WRITERS:
        raise BulkError(f"{path} has none of the endings that tell the output's format: {', '.join(WRITERS)}.")
    if path.exists() and not parts_folder(path).exists():
        raise BulkError(f"{path} is there already: delete it, or name another output.")
    if not path.parent.is_dir():
        raise BulkError(f"There is no directory {path.parent}: make it, or name another output.")


def write_parquet(file, tables, schemas, metadata):
    """All rows with all columns, the vectors as fixed-size lists.

    Args:
        file: the open output.
        tables: a function that returns the parts' tables, one by one.
        schemas: of the parts, in their order.
        metadata: what the file's own metadata say of the vectors.
    """
    schema = _common_schema(schemas, metadata)
    # A dictionary of vectors, of which hardly two are the same, would only take time; and they cannot be compressed.
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


WRITERS = {".parquet": write_parquet, ".npy": write_npy, ".jsonl": write_jsonl}


def _vectors(table):
    column = table.column(EMBEDDING).combine_chunks()
    return column.values.to_numpy().reshape(len(table), column.type.list_size)


def _common_schema(schemas, metadata):
    """All fields of all parts. Where a field has types that have nothing in common, it is text."""
    names = list(dict.fromkeys(name for schema in schemas for name in schema.names if name != EMBEDDING))
    types = {name: {schema.field(name).type for schema in schemas if name in schema.names} for name in names}
    fields = [pa.field(name, _common_type(types[name])) for name in names]
    # What pandas noted in a file of its own, such as which column is the index, still holds.
    noted = {key: value for key, value in (schemas[0].metadata or {}).items() if key == b"pandas"}
    return pa.schema([*fields, schemas[0].field(EMBEDDING)], noted | metadata)


def _common_type(types):
    try:
        schemas = [pa.schema([("", type)]) for type in sorted(types, key=str)]
        common = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.string()
    return pa.string() if has_empty_struct(common) else common


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
    return column.cast(field.type, safe=False)
