"""The forward pass exactly as sentence-transformers computes it."""

import torch
from sentence_transformers.base.modules import Normalize


class ReferenceEngine:
    """A sentence-transformers model without its final L2 normalisation.

    It runs the model's modules one by one: BGE's end in a Normalize module, which
    `encode(normalize_embeddings=False)` would run as well.
    """

    name = "reference"
    instruction_set = None
    pads = True
    micro_batch_tokens = 1024

    def __init__(self, model):
        modules = list(model)
        self._modules = modules[:-1] if isinstance(modules[-1], Normalize) else modules

    def free_scratch(self):
        """Does nothing: PyTorch manages its own memory."""

    @torch.inference_mode()
    def forward(self, batch, with_helper=False):
        """The vectors of a batch of texts, as a float32 array of shape (len(batch), dimension).

        Each text is an array or a list of its token ids. There is no helper.
        """
        shape = len(batch), max(map(len, batch))
        input_ids = torch.zeros(shape, dtype=torch.long)
        attention_mask = torch.zeros(shape, dtype=torch.long)
        for row, ids in enumerate(batch):
            input_ids[row, : len(ids)] = torch.tensor(ids)
            attention_mask[row, : len(ids)] = 1
        features = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": torch.zeros(shape, dtype=torch.long),
        }
        for module in self._modules:
            features = module(features)
        return features["sentence_embedding"].float().numpy()
