"""Trains the model that comes with the package on pairs of one's own, and saves it.

Usage: python examples/fine_tune.py DIRECTORY
"""

import sys

from bart_fast import optimizers
from bart_fast.models import BartSeq2SeqLM

PAIRS = {
    "encoder_text": ["pls send teh report", "thx for you help", "c u tmrw", "cant make it tday"],
    "decoder_text": [
        "Please send the report.",
        "Thanks for your help.",
        "See you tomorrow.",
        "I can't make it today.",
    ],
}

bart_lm = BartSeq2SeqLM.from_preset("bart_tidy_en")
bart_lm.compile(optimizer=optimizers.AdamW(1e-4), sampler="greedy")

history = bart_lm.fit(PAIRS, batch_size=2, epochs=3, verbose=2)
print(f"loss {history.history['loss'][0]:.3f} -> {history.history['loss'][-1]:.3f}")
print(bart_lm.evaluate(PAIRS, verbose=0, return_dict=True))

directory = sys.argv[1] if len(sys.argv) > 1 else "my_preset"
bart_lm.save_to_preset(directory)
print(BartSeq2SeqLM.from_preset(directory).generate("pls send teh report"))
