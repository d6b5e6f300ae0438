"""Rows of Parquet."""

import pyarrow as pa
import pyarrow.parquet

from embedding_api.bulk import window
from embedding_api.bulk.source import InputError, RowError, no_column
from embedding_api.bulk.window import Rows, text_or_none


def read(source, column, on_bad_row):
    """The rows of a file. For the arguments see `inputs.READERS`."""
    # Read page by page: a row group may be larger than the memory.
    in_pages = {"pre_buffer": False, "buffer_size": 1 << 20}
    with pa.parquet.ParquetFile(source.stream, page_checksum_verification=True, **in_pages) as file:
        names = file.schema_arrow.names
        if len(set(names)) < len(names):
            raise InputError("names a column twice: rename one")
        if column not in names:
            raise no_column(column, names)
        _check_type(column, file.schema_arrow.field(column).type)
        before = 0
        for batch in file.iter_batches(window.WINDOW_ROWS, use_threads=False):
            table, numbers = _without_bad_rows(pa.table(batch), before, on_bad_row)
            before += len(batch)
            source.fraction = before / max(1, file.metadata.num_rows)
            if len(table):
                yield Rows(table, [*map(text_or_none, table.column(column).to_pylist())], numbers)


def _check_type(column, type):
    value = type.value_type if pa.types.is_dictionary(type) else type
    texts = pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null
    if not any(is_text(value) for is_text in texts):
        raise InputError(f"has no text in column {column!r}, but {type}: name another with --column, or convert it")


def _without_bad_rows(table, before, on_bad_row):
    """The rows that can be read, and their numbers. What can be wrong is text that is not UTF-8."""
    if _is_valid(table):
        return table, list(range(before + 1, before + len(table) + 1))
    nulls = pa.table([pa.nulls(1, field.type) for field in table.schema], names=table.schema.names)
    error = RowError("has text that is not UTF-8")
    kept = []
    for row in range(len(table)):
        one, number = _row(table, row), before + row + 1
        if _is_valid(one):
            kept.append((one.cast(nulls.schema), number))
        elif on_bad_row(number, error):
            kept.append((nulls, number))
    tables, numbers = zip(*kept, strict=True) if kept else ([table.slice(0, 0)], [])
    return pa.concat_tables(tables).replace_schema_metadata(table.schema.metadata), list(numbers)


def _row(table, row):
    """A copy of one row: a slice would be checked together with the lists, structs and dictionaries of all rows."""
    columns = []
    for column in table.slice(row, 1).columns:
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        columns.append(pa.concat_arrays(column.chunks))
    return pa.table(columns, names=table.schema.names)


def _is_valid(table):
    try:
        table.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True
