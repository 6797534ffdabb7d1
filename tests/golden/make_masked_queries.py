"""Records what keras-hub computes for queries that see no key, with dropout and without.

    KERAS_BACKEND=torch python make_masked_queries.py SHARED/golden/keras_tiny

Made with keras-hub 0.32.0 and keras 3.15.1 on torch. keras-hub computes attention in two ways, by
the dropout its layers were built with, and they differ where all keys are masked.
"""

import sys
from pathlib import Path

import keras_hub
import numpy as np

INPUTS = {
    "encoder_token_ids": np.array([[3, 5, 6, 7], [4, 5, 6, 8]]),
    "encoder_padding_mask": np.array([[1, 1, 0, 0], [0, 0, 0, 0]]),
    "decoder_token_ids": np.array([[3, 5, 6], [4, 9, 2]]),
    "decoder_padding_mask": np.array([[0, 1, 1], [0, 0, 1]]),
}


def main() -> None:
    preset = keras_hub.models.Backbone.from_preset(sys.argv[1])
    arrays = dict(INPUTS)
    for dropout in (0.0, 0.1):
        backbone = keras_hub.models.BartBackbone.from_config(
            {**preset.get_config(), "dropout": dropout}
        )
        backbone.set_weights(preset.get_weights())
        for name, value in backbone(INPUTS, training=False).items():
            arrays[f"dropout_{dropout}/{name}"] = value.detach().numpy()
    np.savez_compressed(Path(__file__).with_name("masked_queries.npz"), **arrays)


if __name__ == "__main__":
    main()
