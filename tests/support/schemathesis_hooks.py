"""What schemathesis does not send: requests that fit the API's description, and that no description could rule out.

Such as texts of characters of which the model's tokenizer leaves nothing. MODEL is the model's directory.
"""

import os
from pathlib import Path

import schemathesis
from tokenizers import Tokenizer

_tokenizer = Tokenizer.from_file(str(Path(os.environ["MODEL"]) / "tokenizer.json"))
_tokenizer.no_padding()

_TEXTS = ("texts", "inputs", "input", "prompt", "query")
# What says whether texts are queries, and whether they may be cut: by each field which of its values say no.
_IS_QUERY = {
    "is_query": (False,),
    "input_type": ("document", "passage", "search_document"),
    "task": ("retrieval.passage",),
    "prompt_name": (),
}
_MAY_BE_CUT = {"truncate": (False, "NONE"), "truncation": (False,)}


@schemathesis.hook
def filter_case(context, case):
    if not (case.meta and case.meta.generation.mode.is_positive and isinstance(case.body, dict)):
        return True
    is_query, may_be_cut = _said(case.body, _IS_QUERY), _said(case.body, _MAY_BE_CUT)
    contradicts_the_path = case.path.startswith("/query") and False in is_query
    contradicts_itself = len(is_query) > 1 or len(may_be_cut) > 1
    return not (contradicts_the_path or contradicts_itself or any(map(_is_unreadable, _texts(case.body))))


def _said(body, fields):
    """What a body says by these fields: True, False, or both."""
    return {body[name] not in noes for name, noes in fields.items() if body.get(name) is not None}


def _texts(body):
    for name in _TEXTS:
        value = body.get(name)
        yield from value if isinstance(value, list) else [value]


def _is_unreadable(text):
    return isinstance(text, str) and not _tokenizer.encode(text, add_special_tokens=False).ids
