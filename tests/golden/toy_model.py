"""A toy model whose logits are a hash of the token history, and what its answers need.

The same function is in Rust (`src/generation/testing.rs`), so both sides search the same tree
without any weights. Needs torch and transformers.
"""

import numpy as np
import torch
import transformers
from transformers.modeling_outputs import CausalLMOutput

MASK32 = 0xFFFFFFFF


def toy_logits(history, vocabulary, favoured):
    """Logits [vocabulary]: multiples of 1/8192 in [0, 8), `favoured` ids higher by 2."""
    state = 2166136261
    for token in history:
        state = ((state ^ int(token)) * 16777619) & MASK32
        state ^= state >> 15
    logits = np.empty(vocabulary, np.float32)
    for token in range(vocabulary):
        mixed = (state + token * 0x9E3779B9) & MASK32
        mixed = ((mixed ^ (mixed >> 16)) * 0x85EBCA6B) & MASK32
        mixed = ((mixed ^ (mixed >> 13)) * 0xC2B2AE35) & MASK32
        mixed ^= mixed >> 16
        logits[token] = (mixed >> 16) / 8192 + (2 if token in favoured else 0)
    return logits


class Toy(transformers.PreTrainedModel, transformers.GenerationMixin):
    """The toy model as a decoder-only model without a cache.

    With `padded` the last token of the vocabulary is never said: an id to pad with.
    """

    config_class = transformers.PretrainedConfig

    def __init__(self, config, favoured, padded=False):
        super().__init__(config)
        self.favoured, self.padded = favoured, padded
        self.unused = torch.nn.Linear(1, 1)
        self.post_init()

    def forward(self, input_ids, **_):
        rows = [toy_logits(row, self.config.vocab_size, self.favoured) for row in input_ids]
        logits = np.stack(rows)
        if self.padded:
            logits[:, -1] = -np.inf
        return CausalLMOutput(logits=torch.tensor(logits)[:, None])


def cut(ids, stops, generated):
    """The ids up to and including the first generated stop token."""
    ends = [position + 1 for position in generated if ids[position] in stops]
    return ids[: min(ends, default=len(ids))]
