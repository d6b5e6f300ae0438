"""Small models of random weights with real tokenizers of their kind, as sentence-transformers saves them."""

import json

import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import Tokenizer
from tokenizers.models import BPE, Unigram, WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, ByteLevel, Metaspace
from tokenizers.trainers import BpeTrainer, UnigramTrainer, WordPieceTrainer

from tests.support.small_bert import backbone

# What the tokenizers learn from.
CORPUS = [
    "What similarity laws must be obeyed when constructing aeroelastic models of heated high speed aircraft?",
    "The pressure on the surface of a blunt body was measured in a wind tunnel, and compared with theory.",
    "Wärmeübergang in der Grenzschicht: die Strömung über eine Platte, gemessen bei hoher Geschwindigkeit.",
    "L'écoulement de l'air autour d'une aile dépend de sa forme, et de la vitesse à laquelle elle vole.",
    "Скорость звука в воздухе зависит от температуры и не зависит от давления.",
    "音の速さは気温によって変わる。 飛行機の翼のまわりの空気の流れ。",
]
_BERT_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_ROBERTA_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def wordpiece():
    return transformers.BertTokenizer(vocab=_train(_words(), WordPieceTrainer, _BERT_TOKENS)["vocab"])


def mpnet():
    tokens = ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"]
    return transformers.MPNetTokenizer(vocab=_train(_words(), WordPieceTrainer, tokens)["vocab"])


def byte_level_bpe():
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    model = _train(tokenizer, BpeTrainer, _ROBERTA_TOKENS, initial_alphabet=ByteLevel.alphabet())
    return transformers.RobertaTokenizer(vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]])


def unigram(kind):
    tokenizer = Tokenizer(Unigram())
    tokenizer.pre_tokenizer = Metaspace()
    model = _train(tokenizer, UnigramTrainer, _ROBERTA_TOKENS, unk_token="<unk>")
    return kind(vocab=[tuple(piece) for piece in model["vocab"]])


# By architecture, as transformers begins the names of its classes.
TOKENIZERS = {
    "Bert": wordpiece,
    "Roberta": byte_level_bpe,
    "XLMRoberta": lambda: unigram(transformers.XLMRobertaTokenizer),
    "Camembert": lambda: unigram(transformers.XLMRobertaTokenizer),
    "DistilBert": wordpiece,
    "MPNet": mpnet,
    "Electra": wordpiece,
}


def save(folder, architecture, pooling="mean", more=(), vocabulary=None, **changes):
    """Save a small model in a folder; returns its directory.

    Args:
        more: modules between pooling and normalisation.
        vocabulary: how many token ids the model has, if more than the tokenizer.
        changes: as in `backbone`.
    """
    tokenizer = TOKENIZERS[architecture]()
    # Where positions begin behind the padding's, the configuration says more.
    tokenizer.model_max_length = changes.get("max_position_embeddings", 64)
    model = backbone(architecture, vocab_size=vocabulary or len(tokenizer), **changes)
    parts = folder / "parts"
    model.save_pretrained(parts)
    tokenizer.save_pretrained(parts)
    transformer = Transformer(str(parts))
    modules = [transformer, Pooling(model.config.hidden_size, pooling_mode=pooling), *more, Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "model"))
    return folder / "model"


def _words():
    tokenizer = Tokenizer(WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer()
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return tokenizer


def _train(tokenizer, trainer, special_tokens, **options):
    """The model of a tokenizer that has learnt from the corpus, as JSON."""
    trainer = trainer(vocab_size=400, special_tokens=special_tokens, show_progress=False, **options)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return json.loads(tokenizer.to_str())["model"]
