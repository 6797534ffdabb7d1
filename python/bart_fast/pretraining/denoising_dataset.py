"""Batches of noisy texts for `fit`."""

from typing import Any

import numpy as np

from bart_fast._texts import as_texts
from bart_fast._validation import (
    DECODER_IDS,
    DECODER_MASK,
    ENCODER_IDS,
    ENCODER_MASK,
    argument_error,
    check_flag,
    check_int,
    check_positive_int,
)
from bart_fast.pretraining.denoiser import Denoiser


class DenoisingDataset:
    """Batches in which a model learns to write texts from noisy ones; each epoch has fresh noise.

    `fit` takes it as it takes Keras' `PyDataset`: batches by number, `on_epoch_end()` after a pass.

    Args:
        texts: a list or array of strings. What is longer than the model reads loses its end.
        preprocessor: a `BartSeq2SeqLMPreprocessor`; its lengths are those of the arrays.
        denoiser: a `Denoiser` of the preprocessor's tokenizer.
        batch_size: int. Defaults to 32.
        shuffle: bool. Whether each epoch has an order of its own. Defaults to `True`.
        epoch: int. The first epoch, to go on with an earlier run. Defaults to 0.

    Example:

    ```python
    from bart_fast.pretraining import Denoiser, DenoisingDataset

    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<mask>": 3, "Ġ": 4, "a": 5, "b": 6, ".": 7}
    tokenizer = bart_fast.models.BartTokenizer(vocabulary, merges=[])
    preprocessor = bart_fast.models.BartSeq2SeqLMPreprocessor(tokenizer, 16, 16)
    denoiser = Denoiser(tokenizer, seed=7)
    dataset = DenoisingDataset(["a ab. b ba."] * 4, preprocessor, denoiser, batch_size=2)
    model.fit(dataset, epochs=2)
    ```
    """

    def __init__(
        self,
        texts: Any,
        preprocessor: Any,
        denoiser: Denoiser,
        batch_size: int = 32,
        shuffle: bool = True,
        epoch: int = 0,
    ):
        self.texts, batched = as_texts("texts", texts)
        if not batched or not self.texts:
            raise argument_error("texts", "must be a list of one text at least", texts)
        if not hasattr(preprocessor, "_closed_rows"):
            raise argument_error(
                "preprocessor", "must be a `BartSeq2SeqLMPreprocessor`", preprocessor
            )
        if not isinstance(denoiser, Denoiser):
            raise argument_error("denoiser", "must be a `Denoiser`", denoiser)
        self.preprocessor = preprocessor
        self.denoiser = denoiser
        self.batch_size = check_positive_int("batch_size", batch_size)
        self.shuffle = check_flag("shuffle", shuffle)
        self.epoch = check_int("epoch", epoch, 0)

    def __len__(self) -> int:
        """Batches of an epoch."""
        return -(-len(self.texts) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """A batch `(x, y, sample_weight)` of token arrays.

        Raises:
            IndexError: there are not so many.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"`index` must be from 0 to {len(self) - 1}; received: {index}")
        chosen = self._order()[index * self.batch_size : (index + 1) * self.batch_size]
        pairs = [self.denoiser.noise(self.texts[i], int(i), self.epoch) for i in chosen]
        return self._arrays([noisy for noisy, _ in pairs], [self.texts[i] for i in chosen])

    def on_epoch_end(self) -> None:
        """Goes on to the next epoch: other noise, another order."""
        self.epoch += 1

    def _order(self) -> np.ndarray:
        if not self.shuffle:
            return np.arange(len(self.texts))
        # A stream beside those of the texts, which have a third number above zero.
        rng = np.random.default_rng([self.denoiser.seed, self.epoch])
        return rng.permutation(len(self.texts))

    def _arrays(self, noisy: list[list[int]], texts: list[str]) -> Any:
        preprocessor = self.preprocessor
        width, target_width = (
            preprocessor.encoder_sequence_length,
            preprocessor.decoder_sequence_length,
        )
        sources = preprocessor._closed_rows(noisy, width)
        encoder_ids, encoder_mask = preprocessor._rectangle(sources, width)
        targets = preprocessor._target_rows(texts, target_width + 1, closed=True)
        ids, mask = preprocessor._rectangle(targets, target_width + 1)
        x = {
            ENCODER_IDS: encoder_ids,
            ENCODER_MASK: encoder_mask,
            DECODER_IDS: ids[:, :-1],
            DECODER_MASK: mask[:, :-1],
        }
        return x, ids[:, 1:], mask[:, 1:]
