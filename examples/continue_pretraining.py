"""Goes on with BART's pre-training on a text file: the model learns to write texts from noisy ones.

Usage: python examples/continue_pretraining.py [DIRECTORY [TEXT_FILE]]

Blank lines separate documents. The last tenth is held out: its perplexity is shown.
"""

import sys
from pathlib import Path

from bart_fast import callbacks, losses, optimizers
from bart_fast.models import BartSeq2SeqLM
from bart_fast.pretraining import Denoiser, DenoisingDataset

TEXT = """
The quick brown fox jumped over the lazy dog. The dog did not mind. It slept until noon.

A library lends books. Some of them come back late. Nobody is angry about it for long.

Rain fell for a week. The river rose. On Sunday the sun came out, and all went for a walk.
"""
WORDS_AT_MOST = 100


def documents(text: str) -> list[str]:
    """Paragraphs, long ones in pieces."""
    found = []
    for paragraph in text.split("\n\n"):
        words = paragraph.split()
        found += [
            " ".join(words[start : start + WORDS_AT_MOST])
            for start in range(0, len(words), WORDS_AT_MOST)
        ]
    return found


directory = sys.argv[1] if len(sys.argv) > 1 else "my_preset"
text = Path(sys.argv[2]).read_text(encoding="utf-8") if len(sys.argv) > 2 else TEXT
texts = documents(text)
held_out = max(1, len(texts) // 10)
training, validation = texts[:-held_out], texts[-held_out:]

bart_lm = BartSeq2SeqLM.from_preset("bart_tidy_en")
preprocessor = bart_lm.preprocessor
preprocessor.encoder_sequence_length = preprocessor.decoder_sequence_length = 160

denoiser = Denoiser(preprocessor.tokenizer, text_infilling=0.3, sentence_permutation=1.0, seed=7)
dataset = DenoisingDataset(training, preprocessor, denoiser, batch_size=8)
checks = DenoisingDataset(validation, preprocessor, denoiser, batch_size=8, shuffle=False)
# The same noise every time: a list does not move on to the next epoch.
checks = [checks[i] for i in range(len(checks))]

epochs = 3
steps = epochs * len(dataset)
rate = optimizers.schedules.CosineDecay(0.0, steps, warmup_target=1e-4, warmup_steps=steps // 10)
bart_lm.compile(
    optimizer=optimizers.AdamW(rate, weight_decay=0.01, global_clipnorm=1.0),
    loss=losses.SparseCategoricalCrossentropy(True, reduction="mean_with_sample_weight"),
    weighted_metrics=["perplexity"],
)
before = bart_lm.evaluate(checks, verbose=0, return_dict=True)["perplexity"]
log = callbacks.CSVLogger("pretraining.csv")
bart_lm.fit(dataset, epochs=epochs, validation_data=checks, callbacks=[log], verbose=2)
after = bart_lm.evaluate(checks, verbose=0, return_dict=True)["perplexity"]
print(f"perplexity of held-out text: {before:.2f} -> {after:.2f}")
bart_lm.save_to_preset(directory)
