"""Read a test collection: documents, queries, and which documents are relevant to which queries."""

from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field

from embedding_api.bulk import json_lines
from embedding_api.bulk.source import InputError, RowError, Source

_CORPUS = "corpus.jsonl", "collection.tsv", "corpus.tsv"
_QUERIES = "queries.jsonl", "queries.tsv"
_JUDGEMENTS = "qrels/{split}.tsv", "qrels/{split}.txt", "qrels.{split}.tsv", "qrels.{split}.txt", "qrels.txt"
# The names in the first line of BEIR's judgements.
_BEIR_NAMES = "query-id", "corpus-id", "score"


class CollectionError(Exception):
    """A folder is not a collection. The message is one sentence that names the file and, within one, the line."""


@dataclass(frozen=True)
class Collection:
    """Texts, and which are relevant to which.

    Attributes:
        documents: texts by id; documents without text are left out.
        queries: texts by id; queries without text or without any judgement are left out.
        judgements: by the query's and the document's id, how relevant the document is; 0 or less means not at all.
        notes: what was left out, or is odd, and how often.
    """

    documents: dict[str, str]
    queries: dict[str, str]
    judgements: dict[str, dict[str, int]]
    notes: dict[str, int] = field(default_factory=dict)


def load(folder, split="test"):
    """Load a collection in BEIR's or TREC's format, or the Cranfield collection; returns a `Collection`.

    Args:
        folder: with corpus.jsonl, queries.jsonl and qrels/<split>.tsv (https://github.com/beir-cellar/beir); or with
            collection.tsv and queries.tsv, each a line of an id, a tab and a text, and qrels.txt, as TREC's Deep
            Learning track has them (https://microsoft.github.io/msmarco/TREC-Deep-Learning); or with cran.all.1400,
            cran.qry and cranqrel.
        split: which judgements.

    Raises:
        CollectionError: files are missing or damaged, or the judgements are of other texts.
    """
    notes = Counter()
    if (folder / "cran.all.1400").exists():
        documents = _read(_cranfield_texts, folder / "cran.all.1400")
        queries = _read(_cranfield_texts, folder / "cran.qry")
        judgements = _read(_cranfield_judgements, folder / "cranqrel")
    else:
        documents = _read(_texts, _find(folder, _CORPUS), notes, "documents")
        queries = _read(_texts, _find(folder, _QUERIES), notes, "queries")
        judgements = _read(_judgements, _find_judgements(folder, split), notes)
    return _collection(folder, documents, queries, judgements, notes)


def _collection(folder, documents, queries, judgements, notes):
    """Leave out what cannot be measured, and count it."""
    with_text = {id: text.strip() for id, text in documents.items() if text.strip()}
    queries_with_text = {id: text for id, text in queries.items() if text.strip()}
    used = {id: text for id, text in queries_with_text.items() if id in judgements}
    pairs = [(query, document) for query, of_query in judgements.items() for document in of_query]
    needed = {"documents with a text": with_text, "queries with a text": queries_with_text, "judgements": pairs}
    for what, there in needed.items():
        if not there:
            raise CollectionError(f"{folder} has no {what}: name another folder, or mend the file.")
    if not any(query in used and document in with_text for query, document in pairs):
        query, document = pairs[0]
        raise CollectionError(
            f"{folder} has judgements, but not of its queries and documents: for example, they name the query"
            f" {query!r} and the document {document!r}, while there are {next(iter(queries_with_text))!r} and"
            f" {next(iter(with_text))!r}, with a text."
        )
    judgements_used = {id: judgements[id] for id in used}
    notes["documents without text, which are left out"] += len(documents) - len(with_text)
    notes["queries without text, which are left out"] += len(queries) - len(queries_with_text)
    notes["queries without judgements, which are left out"] += len(queries_with_text) - len(used)
    notes["queries without a relevant document, which count as 0"] += sum(
        max(of_query.values()) <= 0 for of_query in judgements_used.values()
    )
    notes["judgements of queries that are not there, which do not count"] += sum(
        query not in queries for query, _ in pairs
    )
    notes["judgements of documents that are not there or have no text, which nothing can find"] += sum(
        query in used and document not in with_text for query, document in pairs
    )
    return Collection(with_text, used, judgements_used, {note: count for note, count in notes.items() if count})


def _find(folder, names):
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise CollectionError(
        f"{folder / names[0]} is missing: name a folder with {_CORPUS[0]}, {_QUERIES[0]} and qrels/test.tsv, or with"
        " TREC's or Cranfield's files."
    )


def _find_judgements(folder, split):
    for name in _JUDGEMENTS:
        if (folder / name.format(split=split)).exists():
            return folder / name.format(split=split)
    path = folder / _JUDGEMENTS[0].format(split=split)
    named = [other for name in _JUDGEMENTS for other in folder.glob(name.format(split="*"))]
    if others := sorted({other.stem.removeprefix("qrels.") for other in named}):
        raise CollectionError(f"{path} is missing, but there is {', '.join(others)}: say --split {others[0]}.")
    raise CollectionError(f"{path} is missing: put the judgements there, in BEIR's or TREC's form.")


def _read(reader, path, *arguments):
    """What a reader of lines makes of a file; its errors get the file's name."""
    try:
        with closing(Source(str(path), "")) as source:
            return reader(source, *arguments)
    except InputError as error:
        raise CollectionError(f"{path} {error}.") from None
    except OSError as error:
        raise CollectionError(f"{path} cannot be read ({error.strerror}).") from None


def _lines(source, parse):
    """What a function makes of each line that is not blank; its errors get the line's number."""
    for number, line in source.lines():
        try:
            if line.strip():
                yield parse(number, line)
        except RowError as error:
            raise InputError(f"line {number} {error}: {error.remedy}") from None


def _texts(source, notes, what):
    parse = _json_text if source.name.endswith(".jsonl") else lambda number, line: _tsv_text(source.decode(line))
    texts = {}
    for id, text in _lines(source, parse):
        notes[f"ids of {what} that come again, of which the last one counts"] += id in texts
        texts[id] = text
    return texts


def _json_text(_, line):
    row = json_lines.parse(line.strip())
    id = row.get("_id")
    if isinstance(id, bool) or not isinstance(id, str | int):
        raise RowError("has no '_id' that is a string or a whole number", "give it one")
    title, text = (value if isinstance(value, str) else "" for value in (row.get("title"), row.get("text")))
    return str(id), f"{title} {text}".strip()


def _tsv_text(line):
    id, tab, text = line.rstrip("\r\n").partition("\t")
    if not tab:
        raise RowError("has no tab", "write the id, a tab and the text")
    return id.strip(), " ".join(text.split())


def _judgements(source, notes):
    names, judgements = None, {}

    def parse(number, line):
        nonlocal names
        line = source.decode(line).strip()
        fields = [field.strip() for field in line.split("\t")] if "\t" in line else line.split()
        if number == 1 and len(fields) > 2 and fields[-1][0].isalpha():
            # A line of names. Where they are BEIR's, they may be in any order.
            names = [name.lower() for name in fields] if set(_BEIR_NAMES) <= {*map(str.lower, fields)} else None
            return None
        if len(fields) not in ((3, 4) if names is None else (len(names),)):
            raise _judgement_error(fields)
        # TREC's second field is the number of a round of feedback, and is not used.
        columns = map(names.index, _BEIR_NAMES) if names else (0, -2, -1)
        query, document, score = (fields[column] for column in columns)
        if not _is_whole(score):
            raise RowError("has a score that is not a whole number", "write one, such as 1 or 0")
        return query, document, int(score)

    for judgement in _lines(source, parse):
        if judgement is None:
            continue
        query, document, score = judgement
        of_query = judgements.setdefault(query, {})
        notes["judgements that come again, of which the last one counts"] += document in of_query
        of_query[document] = score
    return judgements


def _judgement_error(fields):
    return RowError(
        f"has {len(fields)} field{'s' * (len(fields) != 1)}",
        "write query, document and score, or TREC's query, 0, document and score, with tabs or spaces between them",
    )


def _is_whole(text):
    return text.removeprefix("-").removeprefix("+").isdecimal() and len(text) < 10


def _cranfield_texts(source):
    entries = "".join(_lines(source, lambda _, line: source.decode(line).rstrip() + "\n")).split("\n.I ")
    texts = [entry.partition("\n.W\n")[2] for entry in entries]
    return {str(number): " ".join(text.split()) for number, text in enumerate(texts, 1)}


def _cranfield_judgements(source):
    # Judgements name queries by their position in the file, not by their number in it. The order of the grades is
    # disputed, so all of 1 to 4 count as relevant, and -1 does not.
    def parse(_, line):
        fields = source.decode(line).split()
        if len(fields) != 3 or not all(map(_is_whole, fields)):
            raise RowError("is not a query, a document and a grade", "write three whole numbers")
        return fields

    judgements = {}
    for query, document, grade in _lines(source, parse):
        judgements.setdefault(query, {})[document] = int(int(grade) > 0)
    return judgements
