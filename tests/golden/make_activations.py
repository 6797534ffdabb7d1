"""Records the logits of Hugging Face's BART with other activations than GELU.

    python make_activations.py SHARED/golden/hf_tiny

Made with transformers 4.57.1 on torch 2.6.0, from the weights of `hf_tiny`.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from transformers import BartForConditionalGeneration

NAMES = ("gelu", "gelu_new", "quick_gelu", "relu", "swish", "tanh")
INPUTS = {
    "encoder_token_ids": np.array([[3, 5, 6, 7, 0], [3, 9, 0, 2, 2]]),
    "encoder_padding_mask": np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
    "decoder_token_ids": np.array([[0, 3, 5, 6], [0, 3, 9, 12]]),
    "decoder_padding_mask": np.array([[1, 1, 1, 1], [1, 1, 1, 1]]),
}


def main() -> None:
    arrays = dict(INPUTS)
    for name in NAMES:
        model = BartForConditionalGeneration.from_pretrained(
            sys.argv[1], activation_function=name, dtype=torch.float32
        ).eval()
        with torch.inference_mode():
            logits = model(
                input_ids=torch.from_numpy(INPUTS["encoder_token_ids"]),
                attention_mask=torch.from_numpy(INPUTS["encoder_padding_mask"]),
                decoder_input_ids=torch.from_numpy(INPUTS["decoder_token_ids"]),
            ).logits
        arrays[f"logits/{name}"] = logits.numpy()
    np.savez_compressed(Path(__file__).with_name("activations.npz"), **arrays)


if __name__ == "__main__":
    main()
