import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest

from embedding_api.config import Settings
from embedding_api.encoder.loading import load_encoder
from embedding_api.encoder.model_files import (
    BGE_QUERY_PROMPT,
    DEFAULT_REVISION,
    HubUnreachable,
    document_prompt,
    find_model,
    missing_file,
    model_name,
    query_prompt,
)
from embedding_api.errors import ConfigError


@pytest.fixture
def cached(monkeypatch, tmp_path):
    """A Hub in place of the real one: its cache is `tmp_path`; returns the list of the calls."""
    calls = []

    def snapshot_download(repository, local_files_only=False, **options):
        calls.append((repository, local_files_only, options))
        if not local_files_only:
            write_model(tmp_path)
        elif not any(tmp_path.iterdir()):
            raise huggingface_hub.errors.LocalEntryNotFoundError("not cached")
        return str(tmp_path)

    class Session:
        def head(self, url, timeout):
            calls.append("head")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub.utils, "get_session", Session)
    return calls


def write_model(directory, origin=""):
    (directory / "1_Pooling").mkdir(exist_ok=True)
    modules = [{"path": "", "type": "a.Transformer"}, {"path": "1_Pooling", "type": "a.Pooling"}]
    (directory / "modules.json").write_text(json.dumps([*modules, {"path": "2_Normalize", "type": "a.Normalize"}]))
    (directory / "config.json").write_text(json.dumps({"_name_or_path": origin}))
    for name in ("1_Pooling/config.json", "tokenizer.json", "model.safetensors"):
        (directory / name).write_text("{}")


def test_a_directory_is_taken_as_it_is(tmp_path):
    assert find_model(Settings(model=str(tmp_path))) == tmp_path


@pytest.mark.parametrize("model", ["/no/such/directory", "./none", "~/no-such-directory", "~nosuchuser/model"])
def test_a_missing_directory_is_an_error(model):
    with pytest.raises(ConfigError, match=f"EMBEDDING_MODEL='{model}' is no directory"):
        find_model(Settings(model=model))


def test_the_cache_is_used_without_the_hub(cached, tmp_path):
    write_model(tmp_path)
    assert find_model(Settings()) == tmp_path
    assert [local for _, local, _ in cached] == [True]


def test_the_default_model_is_fetched_at_its_pinned_revision(cached, tmp_path):
    assert find_model(Settings()) == tmp_path
    repository, local, options = cached[-1]
    assert (repository, local, options["revision"]) == ("BAAI/bge-small-en-v1.5", False, DEFAULT_REVISION)


def test_another_model_is_fetched_at_its_own_revision(cached):
    find_model(Settings(model="owner/name", revision="v2"))
    assert (cached[-1][0], cached[-1][2]["revision"]) == ("owner/name", "v2")
    find_model(Settings(model="owner/name"))
    assert cached[-1][2]["revision"] is None


def test_only_needed_files_are_fetched(cached):
    find_model(Settings())
    options = cached[-1][2]
    files = [
        *("config.json", "modules.json", "tokenizer.json", "vocab.txt", "1_Pooling/config.json", "model.safetensors"),
        *("pytorch_model.bin", "onnx/model.onnx", "onnx/config.json", "openvino/openvino_model.bin", "README.md"),
    ]
    wanted = huggingface_hub.utils.filter_repo_objects(
        files, allow_patterns=options["allow_patterns"], ignore_patterns=options["ignore_patterns"]
    )
    assert list(wanted) == files[:6]


def test_an_interrupted_download_is_resumed(cached, tmp_path):
    write_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    find_model(Settings())
    assert [call if call == "head" else call[1] for call in cached] == [True, "head", False]


def test_a_hub_out_of_reach_is_reported_in_one_sentence(monkeypatch, cached):
    def head(self, url, timeout):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub.utils.get_session, "head", head)
    with pytest.raises(
        HubUnreachable, match="cannot be reached: set EMBEDDING_MODEL to a directory that holds the model"
    ):
        find_model(Settings())
    assert len(cached) == 1


@pytest.mark.parametrize("error", [OSError("broken pipe"), ValueError("Expecting value"), RuntimeError("closed")])
def test_a_broken_download_is_reported_in_one_sentence(monkeypatch, cached, error):
    def snapshot_download(repository, local_files_only=False, **options):
        raise huggingface_hub.errors.LocalEntryNotFoundError("not cached") if local_files_only else error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(HubUnreachable, match=f"set EMBEDDING_MODEL .*{type(error).__name__}"):
        find_model(Settings())


@pytest.mark.parametrize("damaged", ["{", '[{"x": 1}]', '[{"type": 1, "path": ""}]', "[1]", "1", ""])
def test_a_damaged_list_of_modules_does_not_start(tmp_path, damaged):
    write_model(tmp_path)
    (tmp_path / "modules.json").write_text(damaged)
    with pytest.raises(ConfigError, match=r"modules\.json is damaged .*: fetch the model again"):
        load_encoder(Settings(model=str(tmp_path)))


@pytest.mark.parametrize("model", ["a/b/c", "no spaces allowed", "-"])
def test_a_name_that_is_no_hub_id_is_an_error(model):
    with pytest.raises(ConfigError, match="neither a directory nor a Hub id"):
        find_model(Settings(model=model))


@pytest.mark.parametrize(
    "name", ["modules.json", "config.json", "tokenizer.json", "1_Pooling/config.json", "model.safetensors"]
)
def test_an_incomplete_model_does_not_start(tmp_path, name):
    write_model(tmp_path)
    assert missing_file(tmp_path) is None
    (tmp_path / name).unlink()
    with pytest.raises(ConfigError, match=f"has no {name}: set EMBEDDING_MODEL"):
        load_encoder(Settings(model=str(tmp_path)))


@pytest.fixture
def copy(model, tmp_path):
    """A copy of the real model's directory, to be changed."""
    return Path(shutil.copytree(model.directory, tmp_path / "copy"))


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_model_without_pooling_does_not_start(copy):
    modules = json.loads((copy / "modules.json").read_text())
    (copy / "modules.json").write_text(json.dumps(modules[:1]))
    with pytest.raises(ConfigError, match="cannot be loaded: set EMBEDDING_MODEL"):
        load_encoder(Settings(model=str(copy)))


@pytest.mark.parametrize(
    ("file", "values", "reason"),
    [
        ("tokenizer_config.json", {"truncation_side": "left"}, "truncates texts at their start"),
        ("1_Pooling/config.json", {"include_prompt": False}, "leaves the prompt out of the pooling"),
        (
            "config_sentence_transformers.json",
            {"prompts": {"document": "d: "}, "default_prompt_name": "document"},
            "puts a prompt before every text",
        ),
    ],
)
def test_a_model_that_would_silently_get_other_vectors_does_not_start(copy, file, values, reason):
    change(copy / file, **values)
    with pytest.raises(ConfigError, match=f"{reason}, which is not supported: set EMBEDDING_MODEL"):
        load_encoder(Settings(model=str(copy)))


def test_no_text_is_longer_than_the_model_has_positions(copy):
    change(copy / "sentence_bert_config.json", max_seq_length=1024)
    assert load_encoder(Settings(model=str(copy))).max_length == 512


def test_a_damaged_model_does_not_start(copy):
    (copy / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ConfigError, match=r"cannot be loaded: set EMBEDDING_MODEL .* \(SafetensorError"):
        load_encoder(Settings(model=str(copy)))


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (Settings(), "BAAI/bge-small-en-v1.5"),
        (Settings(model="owner/name"), "owner/name"),
        (Settings(model="/models/mine"), "mine"),
        (Settings(model="/models/bge-base-en-v1.5/"), "BAAI/bge-base-en-v1.5"),
        (Settings(model="/models/mine", model_name="ours"), "ours"),
    ],
)
def test_model_name(settings, name):
    assert model_name(settings) == name


@pytest.mark.parametrize(
    ("settings", "origin", "prompts", "prompt"),
    [
        (Settings(), "", {}, BGE_QUERY_PROMPT),
        (Settings(), "", {"query": ""}, BGE_QUERY_PROMPT),
        (Settings(model="/model"), "/root/.cache/BAAI_bge-small-en/", {}, BGE_QUERY_PROMPT),
        (Settings(model="owner/name"), "", {}, ""),
        (Settings(model="owner/name"), "", {"query": "query: "}, "query: "),
        (Settings(model="owner/name", query_prompt="mine: "), "", {"query": "query: "}, "mine: "),
        (Settings(query_prompt=""), "", {}, ""),
        (Settings(model="BAAI/bge-small-zh-v1.5"), "", {}, ""),
        (Settings(model="intfloat/multilingual-e5-small"), "", {}, "query: "),
    ],
)
def test_query_prompt(tmp_path, settings, origin, prompts, prompt):
    write_model(tmp_path, origin)
    assert query_prompt(settings, tmp_path, prompts) == prompt


@pytest.mark.parametrize(
    ("settings", "origin", "prompts", "prompt"),
    [
        (Settings(), "", {"query": "q: "}, ""),
        (Settings(model="owner/name"), "", {}, ""),
        (Settings(model="owner/name"), "", {"document": "d: ", "passage": "p: "}, "d: "),
        (Settings(model="owner/name"), "", {"query": "q: ", "document": "", "passage": "p: "}, "p: "),
        (Settings(model="owner/name", document_prompt="mine: "), "", {"document": "d: "}, "mine: "),
        (Settings(model="intfloat/e5-base-v2"), "", {}, "passage: "),
        (Settings(model="intfloat/multilingual-e5-large"), "", {}, "passage: "),
        (Settings(model="/model"), "/root/.cache/intfloat_e5-small/", {}, "passage: "),
        (Settings(model="intfloat/e5-base-v2", document_prompt=""), "", {}, ""),
        (Settings(model="intfloat/multilingual-e5-large-instruct"), "", {}, ""),
        (Settings(model="owner/name5-base"), "", {}, ""),
    ],
)
def test_document_prompt(tmp_path, settings, origin, prompts, prompt):
    write_model(tmp_path, origin)
    assert document_prompt(settings, tmp_path, prompts) == prompt
