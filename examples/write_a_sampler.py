"""A sampler of one's own: the most probable token that is not forbidden."""

import numpy as np

from bart_fast.models import BartSeq2SeqLM
from bart_fast.samplers import Sampler


class WithoutSampler(Sampler):
    """Greedy search that never chooses some tokens.

    Args:
        forbidden: list of token ids.
    """

    def __init__(self, forbidden, **kwargs):
        super().__init__(**kwargs)
        self.forbidden = list(forbidden)

    def get_next_token(self, probabilities):
        probabilities[:, self.forbidden] = 0.0
        return np.argmax(probabilities, axis=-1)

    def get_config(self):
        return {**super().get_config(), "forbidden": self.forbidden}


bart_lm = BartSeq2SeqLM.from_preset("bart_tidy_en")
text = "the whale and the fox"
print(bart_lm.generate(text, max_length=30))

first = bart_lm.preprocessor.tokenizer(bart_lm.generate(text, max_length=30))[:1]
bart_lm.compile(sampler=WithoutSampler(first))
print(bart_lm.generate(text, max_length=30))
