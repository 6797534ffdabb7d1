"""Small random models for tests: a vocabulary of letters, and a body of a few thousand weights."""

import os
from pathlib import Path

import numpy as np

from bart_fast.models import (
    BartBackbone,
    BartSeq2SeqLM,
    BartSeq2SeqLMPreprocessor,
    BartTokenizer,
)

START, PAD, END = 0, 1, 2
VOCABULARY = {"<s>": START, "<pad>": PAD, "</s>": END, "Ġ": 3}
VOCABULARY |= {chr(code): code - ord("a") + 4 for code in range(ord("a"), ord("z") + 1)}
SIZES = {
    "vocabulary_size": len(VOCABULARY),
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 16,
    "intermediate_dim": 24,
    "max_sequence_length": 24,
}

# Inputs that fit the sizes: two sources, and prompts of three and two tokens.
TEXTS = ["the whale", "a fox", "", "jumps over it"]
SOURCE = {
    "encoder_token_ids": np.array([[START, 9, 12, 5, END, PAD], [START, 20, END, PAD, PAD, PAD]]),
    "encoder_padding_mask": np.array([[1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0]]),
}
PROMPT = {
    "decoder_token_ids": np.array([[END, START, 7, 8, 9, 10], [END, START, 11, 12, 13, 14]]),
    "decoder_padding_mask": np.array([[1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0]], dtype=bool),
}


def attends_in_bfloat16():
    """Whether kernels here multiply bfloat16 in the encoder of bfloat16 and int8 models."""
    facts = Path("/proc/cpuinfo")
    best = os.environ.get("BART_FAST_ISA", "") in ("", "avx512")
    return best and facts.exists() and "avx512_bf16" in facts.read_text()


def tiny_backbone(seed=4, **arguments):
    """A backbone whose weights are large enough that answers depend on the source."""
    backbone = BartBackbone(**{**SIZES, **arguments})
    random = np.random.default_rng(seed)

    def draw(name, shape):
        if "norm" in name:
            return np.full(shape, 1.0 if name.endswith("weight") else 0.0)
        # Source and position are to count for more than the last token.
        large = "encoder_attn" in name or "positions" in name
        return random.normal(0, 1.5 if large else 0.5, shape)

    core = backbone._model
    core.set_parameters(
        {name: draw(name, shape).astype(np.float32) for name, shape in core.parameters()}
    )
    return backbone


def tiny_preprocessor(encoder_sequence_length=16, decoder_sequence_length=12):
    return BartSeq2SeqLMPreprocessor(
        BartTokenizer(VOCABULARY, []), encoder_sequence_length, decoder_sequence_length
    )


def tiny_model(sampler="greedy", preprocessor="own", **arguments):
    if preprocessor == "own":
        preprocessor = tiny_preprocessor()
    model = BartSeq2SeqLM(tiny_backbone(**arguments), preprocessor)
    model.compile(sampler=sampler)
    return model


def token_arrays(rows=3, source=7, target=5, seed=1):
    """Four arrays with masks of unlike lengths."""
    random = np.random.default_rng(seed)
    arrays = {}
    for stack, width in (("encoder", source), ("decoder", target)):
        lengths = random.integers(2, width + 1, rows)
        arrays[f"{stack}_token_ids"] = random.integers(3, SIZES["vocabulary_size"], (rows, width))
        arrays[f"{stack}_padding_mask"] = np.arange(width) < lengths[:, None]
    return arrays
