"""The base class of sequence-to-sequence language models: generate and predict."""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import numpy as np

from bart_fast._validation import (
    DECODER_IDS,
    ENCODER_IDS,
    argument_error,
    check_positive_int,
    check_text_ids,
    check_token_arrays,
)
from bart_fast.models.bart_backbone import BartBackbone, TokenEmbedding, batches
from bart_fast.models.generation_evaluation_mixin import GenerationEvaluationMixin
from bart_fast.models.scoring_mixin import ScoringMixin
from bart_fast.models.streaming_mixin import StreamingMixin
from bart_fast.models.task import Task
from bart_fast.models.text_inputs import is_token_arrays
from bart_fast.training.arguments import check_verbose
from bart_fast.training.batches import Batches
from bart_fast.training.data import open_data, unpack_batch
from bart_fast.training.fit import TrainingMixin


class Seq2SeqLM(StreamingMixin, ScoringMixin, GenerationEvaluationMixin, TrainingMixin, Task):
    """Base class of models that read one text and write another.

    Wraps a backbone and a preprocessor, and adds `generate()`, `stream()`, `score()`, `encode()`,
    `fit()` and saving. Use `BartSeq2SeqLM`, or load any preset with `Seq2SeqLM.from_preset()`,
    which returns the right class.

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

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> TokenEmbedding:
        """Gives the model another number of tokens: see `BartBackbone.resize_token_embeddings`.

        An optimizer that has made steps starts anew, since its state is of the old sizes.

        Args:
            new_num_tokens: int. The new number of tokens. Defaults to `None`: the one there is.
            pad_to_multiple_of: int. The size is rounded up to a multiple of it. Defaults to `None`.
            mean_resizing: bool. Whether new rows are drawn around the mean of the old ones.
                Defaults to `True`.

        Returns:
            The resized `backbone.token_embedding`.

        Raises:
            ValueError: an argument is not allowed, or a special id would be outside.
        """
        core = self.backbone._model
        embedding = self.backbone.resize_token_embeddings(
            new_num_tokens, pad_to_multiple_of, mean_resizing
        )
        if self.optimizer is not None and self.optimizer.serves(core):
            self.optimizer.start_anew()
        return embedding

    def __call__(self, x: Mapping[str, Any], training: bool | None = None) -> np.ndarray:
        """Logits of the next token at every decoder position.

        Args:
            x: dict of the four token arrays, [batch, length] each; see `BartBackbone`.
            training: `None` or `False`; for Keras' signature.

        Returns:
            float32 array [batch, decoder length, vocabulary_size].

        Raises:
            ValueError: an array is missing or misshapen, or an id is out of range.
        """
        if training:
            raise argument_error(
                "training", "must be False", training, "`fit()` and `train_on_batch()` train"
            )
        backbone = self.backbone
        arrays = check_token_arrays(x, backbone.vocabulary_size, backbone.max_sequence_length)
        return self._logits(arrays)

    def _summary_rows(self, title: str) -> list[tuple[str, str, str]]:
        """Layers, their output shapes and numbers of weights, for `summary()`."""
        backbone = self.backbone
        width, vocabulary = backbone.hidden_dim, backbone.vocabulary_size
        return [
            ("encoder_padding_mask (InputLayer)", "(None, None)", "0"),
            ("encoder_token_ids (InputLayer)", "(None, None)", "0"),
            ("decoder_padding_mask (InputLayer)", "(None, None)", "0"),
            ("decoder_token_ids (InputLayer)", "(None, None)", "0"),
            (title, f"(None, None, {width:,})", f"{backbone.count_params():,}"),
            # The head shares the embedding's weights, so it shows them without adding to the total.
            (
                "token_embedding (ReversibleEmbedding)",
                f"(None, None, {vocabulary:,})",
                f"{vocabulary * width:,}",
            ),
        ]

    def _logits(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        hidden = self.backbone._hidden_states(arrays)[1]
        return self.backbone.token_embedding(hidden, reverse=True)

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: Any = "auto",
        steps: int | None = None,
        callbacks: Any = None,
    ) -> np.ndarray:
        """Logits of the next token at every decoder position, computed in batches.

        Args:
            x: dict of the four token arrays; or, with a preprocessor, what it takes: a dict of
                strings `encoder_text` and `decoder_text`; or an iterable of batches of either,
                all of one decoder length.
            batch_size: int. Rows computed at a time. Defaults to 32; `None` for an iterable.
            verbose: 0 silent, 1 or `"auto"` (default) a progress bar, 2 one line.
            steps: int. Batches to compute. Defaults to all.
            callbacks: list of `Callback`.

        Returns:
            float32 array [samples, decoder length, vocabulary_size].

        Raises:
            ValueError: an array is missing or misshapen, or an argument is not allowed.
        """
        if isinstance(x, Mapping):
            parts = batches(self._arrays(x), 32 if batch_size is None else batch_size)
            known = len(parts)
        else:
            stream = Batches(open_data(x), batch_size)
            parts, known = (self._arrays(batch[0]) for batch in stream.epoch(0)), stream.steps
        if steps is not None:
            parts = islice(parts, check_positive_int("steps", steps))
        callbacks = self._callback_list(callbacks, check_verbose(verbose), 1, steps or known)
        try:
            logits = self._predict(parts, callbacks)
        finally:
            callbacks.close()
        if len({each.shape[1] for each in logits}) > 1:
            widths = sorted({each.shape[1] for each in logits})
            raise argument_error("x", "must have batches of one decoder length", widths)
        if not logits:
            raise argument_error("x", "must hold at least one batch", "none")
        return np.concatenate(logits)

    def predict_on_batch(self, x: Any) -> np.ndarray:
        """Logits of one batch.

        Args:
            x: dict of the four token arrays, or of strings, as for `predict()`.

        Returns:
            float32 array [batch, decoder length, vocabulary_size].

        Raises:
            ValueError: an array is missing or misshapen.
        """
        return self._logits(self._arrays(unpack_batch(x)[0]))

    def _predict(self, parts: Iterable[dict[str, np.ndarray]], callbacks: Any) -> list[np.ndarray]:
        self.stop_predicting = False
        callbacks.on_predict_begin()
        logits = []
        for step, part in enumerate(parts):
            callbacks.on_predict_batch_begin(step)
            logits.append(self._logits(part))
            callbacks.on_predict_batch_end(step)
            if self.stop_predicting:
                break
        callbacks.on_predict_end()
        return logits

    def _arrays(self, x: Any) -> dict[str, np.ndarray]:
        """The checked token arrays of a batch, made from strings if it holds some."""
        backbone, preprocessor = self.backbone, self.preprocessor
        table = backbone.max_sequence_length
        if preprocessor is not None and not is_token_arrays(x):
            names = ("encoder_sequence_length", "decoder_sequence_length")
            lengths = {
                n: min(getattr(preprocessor, n), table) for n in names if hasattr(preprocessor, n)
            }
            x = preprocessor(x, **lengths)
            x = x[0] if isinstance(x, tuple) else x
            ids = (x[name] for name in (ENCODER_IDS, DECODER_IDS) if name in x)
            check_text_ids(preprocessor, backbone.vocabulary_size, *ids)
        return check_token_arrays(x, backbone.vocabulary_size, table)
