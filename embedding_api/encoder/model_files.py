"""Find the model on disk or on the Hugging Face Hub, and its name. Imports nothing that takes seconds."""

import json
import os
import re
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from embedding_api.errors import ConfigError

DEFAULT_MODEL = "BAAI/bge-small-en-v1.5"
DEFAULT_REVISION = "5c38ec7c405ec4b44b94cc5a9bb96e735b38267a"

# https://huggingface.co/BAAI/bge-small-en-v1.5#using-huggingface-transformers
BGE_QUERY_PROMPT = "Represent this sentence for searching relevant passages: "
_BGE = re.compile(r"bge-(small|base|large)-en(-v1\.5)?\b")
# https://huggingface.co/intfloat/multilingual-e5-small#faq; the instruct models have other prompts.
E5_QUERY_PROMPT, E5_DOCUMENT_PROMPT = "query: ", "passage: "
_E5 = re.compile(r"(?<![A-Za-z0-9])e5-(small|base|large)(-v2|-unsupervised)?(?![\w-])")
# The names of a prompt for documents, as sentence-transformers looks for them.
_DOCUMENT = "document", "passage", "corpus"
# Repositories also hold the weights as .bin and ONNX; the safetensors and the small files are all that is needed.
_NEEDED = ["*.json", "*.txt", "*.model", "model*.safetensors", "*/*.safetensors"]
_NOT_NEEDED = ["onnx/*", "openvino/*"]
_HUB_TIMEOUT = 5  # seconds


class HubUnreachable(ConfigError):
    """The model is not on this machine, and the Hub that has it does not answer."""


def find_model(settings):
    """The directory that holds the model: given, or in the Hub's cache, or downloaded into it (~134 MB for BGE small).

    Raises:
        HubUnreachable: it would have to be downloaded, and the Hub does not answer.
        ConfigError: there is no such directory, repository or revision.
    """
    if _is_directory(settings.model):
        directory = Path(os.path.expanduser(settings.model))
        if not directory.is_dir():
            raise ConfigError(f"EMBEDDING_MODEL={settings.model!r} is no directory: set it to one, or to a Hub id.")
        return directory
    hub_id = settings.model or DEFAULT_MODEL
    revision = settings.revision or (DEFAULT_REVISION if hub_id == DEFAULT_MODEL else None)
    wanted = {"revision": revision, "allow_patterns": _NEEDED, "ignore_patterns": _NOT_NEEDED}
    try:
        directory = Path(huggingface_hub.snapshot_download(hub_id, local_files_only=True, **wanted))
    except LocalEntryNotFoundError:
        return _download(hub_id, wanted)
    except HFValidationError:
        raise ConfigError(f"EMBEDDING_MODEL={hub_id!r} is neither a directory nor a Hub id like owner/name.") from None
    # A download that was interrupted leaves a part of the model in the cache.
    return _download(hub_id, wanted) if missing_file(directory) else directory


def missing_file(directory):
    """The first file of a sentence-transformers model that the directory lacks, or None.

    Raises:
        ConfigError: it cannot be read, or modules.json, which names the files, is damaged.
    """
    try:
        return _first_missing(directory)
    except OSError as error:
        raise ConfigError(
            f"{directory} cannot be read ({error.strerror}): set EMBEDDING_MODEL to a directory that can."
        ) from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{directory}/modules.json is damaged ({error}): fetch the model again.") from None


def _first_missing(directory):
    for name in ("modules.json", "config.json", "tokenizer.json"):
        if not (directory / name).is_file():
            return name
    for module in json.loads((directory / "modules.json").read_text()):
        config = f"{module['path']}/config.json"
        if not module["type"].endswith((".Transformer", ".Normalize")) and not (directory / config).is_file():
            return config
    return None if any(directory.glob("*.safetensors")) else "model.safetensors"


def model_name(settings):
    """The name that responses carry: as set, or the Hub id, or the directory's name (BGE's with its owner)."""
    if settings.model_name or not _is_directory(settings.model):
        return settings.model_name or settings.model or DEFAULT_MODEL
    name = Path(os.path.expanduser(settings.model)).resolve().name
    return f"BAAI/{name}" if _BGE.fullmatch(name) else name


def revision(directory):
    """The commit that a directory of the Hub's cache holds, or None for any other directory."""
    return directory.name if directory.parent.name == "snapshots" else None


def query_prompt(settings, directory, prompts):
    """What is put before a query: the setting, or the model's own prompt "query", or that of a BGE or an E5."""
    if settings.query_prompt is not None:
        return settings.query_prompt
    return prompts.get("query") or _prompts_by_name(settings, directory)[0]


def document_prompt(settings, directory, prompts):
    """What is put before any other text: the setting, or the model's own prompt for documents, or that of an E5."""
    if settings.document_prompt is not None:
        return settings.document_prompt
    own = next(filter(None, map(prompts.get, _DOCUMENT)), None)
    return own or _prompts_by_name(settings, directory)[1]


def _prompts_by_name(settings, directory):
    """The prompts for queries and for documents of models that do not ship theirs."""
    # config.json names the model's origin, so that a BGE is known in a directory of any name.
    origin = json.loads((directory / "config.json").read_text()).get("_name_or_path", "")
    names = f"{model_name(settings)} {origin}"
    if _BGE.search(names):
        return BGE_QUERY_PROMPT, ""
    return (E5_QUERY_PROMPT, E5_DOCUMENT_PROMPT) if _E5.search(names) else ("", "")


def _is_directory(model):
    return model is not None and (model.startswith(("/", ".", "~")) or Path(model).is_dir())


def _download(hub_id, wanted):
    hub = huggingface_hub.constants.ENDPOINT
    try:
        # snapshot_download alone would retry for half a minute before it gives up.
        huggingface_hub.utils.get_session().head(hub, timeout=_HUB_TIMEOUT)
        return Path(huggingface_hub.snapshot_download(hub_id, **wanted))
    except HfHubHTTPError as error:
        raise ConfigError(f"EMBEDDING_MODEL={hub_id!r} cannot be fetched: {str(error).splitlines()[0]}") from error
    except Exception as error:
        # Anything between here and the Hub may fail: no route, a broken connection, a proxy that answers itself.
        raise HubUnreachable(
            f"The model {hub_id} is not (wholly) on this machine, neither as a directory nor in the Hub's cache, and"
            f" {hub} cannot be reached: set EMBEDDING_MODEL to a directory that holds the model"
            f" ({type(error).__name__})."
        ) from error
