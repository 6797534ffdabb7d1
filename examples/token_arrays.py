"""Generation and logits without a preprocessor: token ids in, token ids out."""

import numpy as np

from bart_fast.models import BartSeq2SeqLM, BartSeq2SeqLMPreprocessor

PRESET = "bart_tidy_en"

preprocessor = BartSeq2SeqLMPreprocessor.from_preset(PRESET)
bart_lm = BartSeq2SeqLM.from_preset(PRESET, preprocessor=None)

inputs = preprocessor.generate_preprocess(
    ["i seen it", "where is you"], encoder_sequence_length=16, decoder_sequence_length=20
)
output = bart_lm.generate(inputs)
for ids, mask in zip(output["decoder_token_ids"], output["decoder_padding_mask"], strict=True):
    print(ids[mask].tolist())
print(preprocessor.generate_postprocess(output))

# How probable the model finds each token of its answers.
logits = bart_lm({**inputs, **output})
probabilities = np.exp(logits - logits.max(axis=-1, keepdims=True))
probabilities /= probabilities.sum(axis=-1, keepdims=True)
following = output["decoder_token_ids"][:, 1:, np.newaxis]
print(np.take_along_axis(probabilities[:, :-1], following, axis=-1)[:, :, 0].round(3))
