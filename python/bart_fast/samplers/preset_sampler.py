"""The sampler that a checkpoint describes itself."""

from typing import Any

import numpy as np

from bart_fast.samplers.sampler import Sampler


class PresetSampler(Sampler):
    """Generates as the checkpoint's own settings say, as transformers does by default.

    The settings are those of `generation_config.json`, or of `config.json` in older checkpoints:
    number of beams, lengths, forced tokens and so on (bart-large-cnn: 4 beams, length penalty 2, 56
    to 142 tokens, no trigram twice). Keywords of `generate()` beat them. Answers to strings then
    start as in transformers: with `decoder_start_token_id` alone. Works in a model only, and not
    with a preset of keras-hub, which has no such settings; one that we wrote in Keras' format keeps
    those that its model came with.

    Example:

    ```python
    bart_lm.compile(sampler="preset")
    ```
    """

    def __init__(self) -> None:
        super().__init__()

    def get_next_token(self, probabilities: np.ndarray) -> np.ndarray:
        raise ValueError(
            '`sampler="preset"` stands for the settings of a checkpoint, and here is none.\n'
            'hint: use it in `model.compile(sampler="preset")`'
        )

    def get_config(self) -> dict[str, Any]:
        return {}
