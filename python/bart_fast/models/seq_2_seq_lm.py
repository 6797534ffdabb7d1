"""The base class of sequence-to-sequence language models: generate and predict."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bart_fast._validation import check_token_arrays
from bart_fast.models.bart_backbone import BartBackbone, batches
from bart_fast.models.generation_mixin import GenerationMixin, is_token_arrays
from bart_fast.models.task import Task
from bart_fast.training.fit import TrainingMixin


class Seq2SeqLM(GenerationMixin, TrainingMixin, Task):
    """Base class of models that read one text and write another.

    Wraps a backbone and a preprocessor, and adds `generate()`, `fit()` and saving. Use
    `BartSeq2SeqLM`, or load any preset with `Seq2SeqLM.from_preset()`, which returns the right
    class.

    Args:
        backbone: a `BartBackbone`.
        preprocessor: a `BartSeq2SeqLMPreprocessor`, or `None` to work with token arrays.
        compile: bool. Whether to compile with default arguments. Defaults to `True`.
        name: str. Shown by `summary()`.
    """

    def __init__(
        self,
        backbone: BartBackbone,
        preprocessor: Any = None,
        compile: bool = True,
        *,
        name: str = "seq2_seq_lm",
    ):
        super().__init__(backbone, preprocessor, compile, name=name)

    def __call__(self, x: Mapping[str, Any]) -> np.ndarray:
        """Logits of the next token at every decoder position.

        Args:
            x: dict of the four token arrays, [batch, length] each; see `BartBackbone`.

        Returns:
            float32 array [batch, decoder length, vocabulary_size].

        Raises:
            ValueError: an array is missing or misshapen, or an id is out of range.
        """
        backbone = self.backbone
        arrays = check_token_arrays(x, backbone.vocabulary_size, backbone.max_sequence_length)
        return self._logits(arrays)

    def _logits(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        hidden = self.backbone._hidden_states(arrays)[1]
        return self.backbone.token_embedding(hidden, reverse=True)

    def predict(self, x: Any, batch_size: int = 32, verbose: Any = "auto") -> np.ndarray:
        """Logits of the next token at every decoder position, computed in batches.

        Args:
            x: dict of the four token arrays; or, with a preprocessor, what it takes: a dict of
                strings `encoder_text` and `decoder_text`.
            batch_size: int. Rows computed at a time. Defaults to 32.
            verbose: accepted for Keras' signature, changes nothing.

        Returns:
            float32 array [samples, decoder length, vocabulary_size].
        """
        if self.preprocessor is not None and not is_token_arrays(x):
            x = self.preprocessor(x)
            x = x[0] if isinstance(x, tuple) else x
        backbone = self.backbone
        arrays = check_token_arrays(x, backbone.vocabulary_size, backbone.max_sequence_length)
        return np.concatenate([self._logits(part) for part in batches(arrays, batch_size)])
