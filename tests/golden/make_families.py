"""Records Hugging Face's numbers for BART's relatives, and for heads and embeddings of their own.

    python make_families.py

Made with transformers 4.57.1 on torch 2.6.0. Weights are random, of values that float16 holds.
"""

import json
from pathlib import Path

import numpy as np
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    MBartConfig,
    MBartForConditionalGeneration,
    PLBartConfig,
    PLBartForConditionalGeneration,
)

SIZES = {
    "vocab_size": 24,
    "d_model": 8,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 12,
    "decoder_ffn_dim": 10,
    "max_position_embeddings": 16,
    "max_length": 12,
}
BART = (BartConfig, BartForConditionalGeneration)
MBART = (MBartConfig, MBartForConditionalGeneration)
PLBART = (PLBartConfig, PLBartForConditionalGeneration)
# Name -> classes, configuration, and whether encoder and decoder have tables of their own.
CASES = {
    "bart_untied": (*BART, {"tie_word_embeddings": False}, False),
    "bart_separate": (*BART, {"tie_word_embeddings": False, "scale_embedding": True}, True),
    "mbart": (*MBART, {"decoder_start_token_id": 5, "scale_embedding": True}, False),
    "mbart_50": (
        *MBART,
        {
            "decoder_start_token_id": 2,
            "forced_bos_token_id": 7,
            "activation_function": "relu",
            "encoder_attention_heads": 4,
            "decoder_layers": 3,
        },
        False,
    ),
    "mbart_separate": (*MBART, {"tie_word_embeddings": False}, True),
    "plbart": (*PLBART, {"attention_dropout": 0.0}, False),
}
INPUTS = {
    "encoder_token_ids": np.array([[3, 5, 6, 7, 9, 2], [13, 9, 8, 2, 1, 1]]),
    "encoder_padding_mask": np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]),
    "decoder_token_ids": np.array([[2, 0, 5, 6], [5, 3, 9, 12]]),
    "decoder_padding_mask": np.array([[1, 1, 1, 1], [1, 1, 1, 1]]),
}


def built(config_class, model_class, fields, separate, random):
    """A model with random weights, and its tensors as Hugging Face saves them."""
    model = model_class(config_class(**{**SIZES, **fields})).eval()
    if separate:
        for part in (model.model.encoder, model.model.decoder):
            part.embed_tokens.weight = torch.nn.Parameter(part.embed_tokens.weight.clone())
    named = dict(model.named_parameters()) | {"final_logits_bias": model.final_logits_bias}
    for name, values in named.items():
        # Source and position are to count for more than the last token.
        large = "encoder_attn" in name or "positions" in name
        draw = random.normal(0, 1.2 if large else 0.4, values.shape)
        draw = 1 + draw / 2 if "norm" in name and name.endswith("weight") else draw
        values.data = torch.from_numpy(draw.astype(np.float16).astype(np.float32))
    return model, {name: values.detach().numpy() for name, values in named.items()}


def main() -> None:
    arrays, configs = dict(INPUTS), {}
    tensors = {name: torch.from_numpy(values) for name, values in INPUTS.items()}
    encoder = {
        "input_ids": tensors["encoder_token_ids"],
        "attention_mask": tensors["encoder_padding_mask"],
    }
    for seed, (name, (*classes, fields, separate)) in enumerate(CASES.items()):
        model, saved = built(*classes, fields, separate, np.random.default_rng(seed))
        configs[name] = {**SIZES, **fields, "model_type": model.config.model_type}
        arrays |= {f"{name}/weights/{key}": v.astype(np.float16) for key, v in saved.items()}
        with torch.inference_mode():
            output = model(
                **encoder,
                decoder_input_ids=tensors["decoder_token_ids"],
                decoder_attention_mask=tensors["decoder_padding_mask"],
                output_hidden_states=True,
            )
            greedy = model.generate(**encoder)
            beams = model.generate(
                **encoder,
                num_beams=3,
                num_return_sequences=3,
                output_scores=True,
                return_dict_in_generate=True,
            )
        arrays |= {
            f"{name}/encoder": output.encoder_last_hidden_state.numpy(),
            f"{name}/decoder": output.decoder_hidden_states[-1].numpy(),
            f"{name}/logits": output.logits.numpy(),
            f"{name}/greedy": greedy.numpy(),
            f"{name}/beams": beams.sequences.numpy(),
            f"{name}/beam_scores": beams.sequences_scores.numpy(),
        }
    arrays["configs"] = np.array(json.dumps(configs))
    np.savez_compressed(Path(__file__).with_name("families.npz"), **arrays)


if __name__ == "__main__":
    main()
