import pytest
from sentence_transformers.base.modules import Dense
from transformers import ElectraConfig, ElectraModel

from embedding_api.encoder.read_model import model_info, why_not_kernel
from tests.support.small_bert import ARCHITECTURES, Modules, assemble, small_bert


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"hidden_act": "relu"}, "its activation is relu"),
        ({"is_decoder": True}, "it is a decoder"),
        ({"position_embedding_type": "relative_key"}, "other than absolute positions"),
        ({"pooling": "max"}, "its pooling is max"),
        ({"hidden_size": 96}, "its attention heads have 48 dimensions, not 32 or 64"),
        ({"intermediate_size": 98}, "its intermediate size is no multiple of 4"),
        ({"num_hidden_layers": 0}, "it has no layers"),
    ],
)
def test_other_models_are_not_for_the_kernel(change, reason):
    assert reason in why_not_kernel(small_bert(**change))


def test_pooling_another_layer_is_not_for_the_kernel():
    model = small_bert()
    model[0].modality_config = {"text": {"method": "forward", "method_output_name": ["hidden_states", -2]}}
    assert "last layer" in why_not_kernel(model)


def test_other_architectures_are_not_for_the_kernel():
    config = ElectraConfig(vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    reason = why_not_kernel(assemble(ElectraModel(config), "cls", 8))
    assert reason.startswith("it is a ElectraModel, not a BertModel, ")
    assert "modules" in why_not_kernel(Modules([*small_bert()[:2], Dense(64, 8)]))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_text_has_no_more_tokens_than_there_are_positions(architecture):
    class Backend:
        def to_str(self):
            return "{}"

    class Tokenizer:
        backend_tokenizer = Backend()

    model = small_bert(architecture=architecture)
    model.tokenizer, model.prompts, model.max_seq_length = Tokenizer(), {}, 512
    assert model_info(model).max_length == 64
