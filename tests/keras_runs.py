"""The data of the runs that were recorded from Keras, and a model like theirs."""

import json
from pathlib import Path

import numpy as np
from bigram_core import BigramModel, token_arrays

from bart_fast import optimizers

# Made by golden/make_keras_fit.py.
GOLDEN = json.loads((Path(__file__).parent / "golden/keras_fit.json").read_text())
X = token_arrays(GOLDEN["x"])
Y = np.array(GOLDEN["y"])
WEIGHT = np.array(GOLDEN["sample_weight"], np.float32)
QUIET = {"verbose": 0, "batch_size": 2}


def make_model(**arguments):
    arguments.setdefault("optimizer", optimizers.Adam(0.1))
    return BigramModel(GOLDEN["table"], **arguments)
