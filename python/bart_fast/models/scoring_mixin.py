"""`score()`, `encode()` and `cross_attention()`: what a model thinks of given texts, without
generating any."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from bart_fast._texts import as_texts
from bart_fast._validation import (
    DECODER_IDS,
    DECODER_MASK,
    ENCODER_IDS,
    ENCODER_MASK,
    TOKEN_ARRAYS,
    argument_error,
    check_keys,
    check_length,
    check_mask,
    check_positive_int,
    check_text_ids,
    check_token_arrays,
    check_token_ids,
)
from bart_fast.models.attention_output import (
    CrossAttentionOutput,
    alignments,
    array_attentions,
    check_layers,
    source_offsets,
)
from bart_fast.models.generation import check_sources
from bart_fast.training.batch import BatchMaker

# Name -> what makes one vector of those [tokens, hidden_dim] of the real tokens.
_POOLINGS = {
    "mean": lambda states: states.mean(axis=0),
    "max": lambda states: states.max(axis=0),
    "first": lambda states: states[0],
    "last": lambda states: states[-1],
}
# Positions whose logits are held at a time.
_POSITIONS_AT_ONCE = 256


@dataclass(frozen=True)
class ScoreOutput:
    """What `score()` returns.

    Attributes:
        logprobs: float32 array [batch]: the sum of each target's log probabilities, in nats.
        token_logprobs: float32 array [batch, length]: those of its tokens; 0 where nothing counts.
        token_ids: int array [batch, length]: the tokens.
        mask: bool array [batch, length]: which of them count.
    """

    logprobs: np.ndarray
    token_logprobs: np.ndarray
    token_ids: np.ndarray
    mask: np.ndarray


class ScoringMixin:
    """What `Seq2SeqLM` inherits. Needs `backbone` and `preprocessor`."""

    def score(
        self, inputs: Any, targets: Any, sample_weight: Any = None, batch_size: int = 32
    ) -> ScoreOutput:
        """Log probabilities of given targets, token by token.

        The targets of strings are those of training: `<s>`, the text and `</s>`, after `</s>`.

        Args:
            inputs: a string or a list of strings; or a dict of the four token arrays
                [batch, length].
            targets: a string or a list of strings, one for each input; for token arrays the ids
                [batch, decoder length] that should follow each decoder position.
            sample_weight: for token arrays: a mask of the positions that count, [batch, decoder
                length]. Defaults to `decoder_padding_mask`.
            batch_size: int. Rows computed at a time. Defaults to 32.

        Returns:
            A `ScoreOutput`; for one string its arrays have no batch axis.

        Raises:
            ValueError: an argument is missing, misshapen or out of range.

        Example:

        ```python
        bart_lm = bart_fast.models.BartSeq2SeqLM.from_preset("bart_tidy_en")
        scores = bart_lm.score(["i has it"] * 2, ["I have it.", "I has it."])
        assert scores.logprobs[0] > scores.logprobs[1]
        ```
        """
        check_positive_int("batch_size", batch_size)
        if isinstance(inputs, Mapping):
            arrays, ids, counts = self._scored_arrays(inputs, targets, sample_weight)
        else:
            arrays, ids, counts = self._scored_texts(inputs, targets, sample_weight)
        scores = np.zeros(ids.shape, dtype=np.float32)
        for start in range(0, len(ids), batch_size):
            rows = slice(start, start + batch_size)
            hidden = self.backbone._hidden_states({k: each[rows] for k, each in arrays.items()})[1]
            scores[rows][counts[rows]] = self._logprobs(
                hidden[counts[rows]], ids[rows][counts[rows]]
            )
        totals = scores.sum(axis=1, dtype=np.float64).astype(np.float32)
        output = ScoreOutput(totals, scores, ids, counts)
        if isinstance(inputs, str | bytes):
            return ScoreOutput(*(getattr(output, each.name)[0] for each in fields(output)))
        return output

    def _logprobs(self, hidden: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Log probabilities [n] of `ids` [n] after hidden states [n, hidden_dim]."""
        logprobs = np.empty(len(ids), dtype=np.float32)
        for start in range(0, len(ids), _POSITIONS_AT_ONCE):
            part = slice(start, start + _POSITIONS_AT_ONCE)
            logits = self.backbone.token_embedding(hidden[part], reverse=True).astype(np.float64)
            largest = logits.max(axis=1)
            norm = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1))
            logprobs[part] = logits[np.arange(len(logits)), ids[part]] - norm
        return logprobs

    def _scored_arrays(self, inputs: Mapping[str, Any], targets: Any, sample_weight: Any) -> tuple:
        backbone = self.backbone
        arrays = check_token_arrays(inputs, backbone.vocabulary_size, backbone.max_sequence_length)
        ids = check_token_ids("targets", targets, backbone.vocabulary_size)
        shape = arrays[DECODER_IDS].shape
        if ids.shape != shape:
            raise argument_error("targets", f"must have the shape of `{DECODER_IDS}`, {shape}", ids)
        if sample_weight is None:
            return arrays, ids, arrays[DECODER_MASK]
        return arrays, ids, check_mask("sample_weight", sample_weight, "targets", shape)

    def _scored_texts(self, inputs: Any, targets: Any, sample_weight: Any) -> tuple:
        if self.preprocessor is None:
            raise argument_error(
                "inputs",
                "must be a dict of token arrays, since the model has no preprocessor",
                inputs,
            )
        if sample_weight is not None:
            raise argument_error("sample_weight", "is for token arrays", sample_weight)
        sources, batched = as_texts("inputs", inputs)
        texts, targets_batched = as_texts("targets", targets)
        if batched != targets_batched or len(sources) != len(texts):
            raise ValueError(
                "`targets` must have a text for each of `inputs`, both a string or both lists. "
                f"Received: {len(texts)} for {len(sources)}."
            )
        if not sources:
            empty = np.zeros((0, 1), dtype=np.int64)
            return {}, empty, empty.astype(bool)
        make_batch = BatchMaker(
            self.preprocessor, self.backbone.max_sequence_length, self.backbone.vocabulary_size
        )
        batch = make_batch({"encoder_text": sources, "decoder_text": texts})
        arrays = {name: getattr(batch, name) for name in TOKEN_ARRAYS}
        return arrays, batch.targets, batch.decoder_padding_mask

    def cross_attention(
        self, inputs: Any, targets: Any = None, layers: Any = True
    ) -> CrossAttentionOutput:
        """What the decoder looks at in the source when it reads given targets.

        `generate(..., return_dict_in_generate=True, output_attentions=True)` gives the same of its
        own answers.

        Args:
            inputs: a string or a list of strings; or a dict of the four token arrays
                [batch, length].
            targets: a string or a list of strings, one for each input, as for `score()`; for token
                arrays the ids that follow each decoder position, which only go into the output.
            layers: `True` for all decoder layers, or a list of their numbers; negative ones count
                from the last. Defaults to `True`.

        Returns:
            A `CrossAttentionOutput`; for one string its arrays have no batch axis.

        Raises:
            ValueError: an argument is missing, misshapen or out of range.
            MemoryError: the arrays would be larger than the machine's memory.
        """
        numbers = check_layers("layers", layers, self.backbone._core_config["decoder_layers"])
        if not numbers:
            raise argument_error("layers", "must be `True` or a list of decoder layers", layers)
        is_texts = not isinstance(inputs, Mapping)
        if is_texts:
            arrays, ids, _ = self._scored_texts(inputs, targets, None)
        elif targets is None:
            backbone = self.backbone
            arrays, ids = (
                check_token_arrays(inputs, backbone.vocabulary_size, backbone.max_sequence_length),
                None,
            )
        else:
            arrays, ids, _ = self._scored_arrays(inputs, targets, None)
        if len(next(iter(arrays.values()), ())) == 0:
            raise argument_error("inputs", "must hold one text at least", inputs)
        check_sources(arrays[ENCODER_MASK])
        sequences = [arrays[name] for name in TOKEN_ARRAYS]
        weights = array_attentions(self.backbone._model, sequences, numbers)
        spans = None
        if is_texts:
            texts, _ = as_texts("inputs", inputs)
            lengths = arrays[ENCODER_MASK].sum(axis=1)
            spans = source_offsets(self.preprocessor, texts, lengths, weights.shape[-1])
        values = [weights, alignments(weights), ids, spans]
        if isinstance(inputs, str | bytes):
            values = [each if each is None else each[0] for each in values]
        return CrossAttentionOutput(*values)

    def encode(
        self, inputs: Any, pooling: str | None = None, batch_size: int = 32
    ) -> np.ndarray | list[np.ndarray]:
        """The encoder's output, one vector a token, or pooled to one a text.

        Args:
            inputs: a string or a list of strings; or a dict of `encoder_token_ids` and
                `encoder_padding_mask`, [batch, length] each.
            pooling: `"mean"` or `"max"` over the real tokens, the `"first"` (`<s>`) or the
                `"last"` (`</s>`) of them, or `None` for all. Defaults to `None`.
            batch_size: int. Rows computed at a time. Defaults to 32.

        Returns:
            With `pooling` float32 [batch, hidden_dim]. Without, for strings a list of float32
            arrays [tokens, hidden_dim], for token arrays [batch, length, hidden_dim]. No batch
            axis for one string.

        Raises:
            ValueError: an argument is misshapen or out of range.
        """
        if pooling is not None and not (isinstance(pooling, str) and pooling in _POOLINGS):
            allowed = ", ".join(map(repr, _POOLINGS))
            raise argument_error("pooling", f"must be `None` or one of {allowed}", pooling)
        check_positive_int("batch_size", batch_size)
        is_texts = not isinstance(inputs, Mapping)
        ids, mask = self._source_arrays(inputs)
        if pooling is not None and not mask.any(axis=1).all():
            raise argument_error(
                ENCODER_MASK,
                "must be True at one position of each row for `pooling`",
                "a row without",
            )
        states = []
        for start in range(0, len(ids), batch_size):
            part = mask[start : start + batch_size]
            # Padding at the end is computed where it was asked for only.
            width = ids.shape[1] if pooling is None and not is_texts else _real_width(part)
            hidden = self.backbone._model.encode(
                np.ascontiguousarray(ids[start : start + batch_size, :width]),
                np.ascontiguousarray(part[:, :width]),
            )
            for row, real in zip(hidden, part[:, :width], strict=True):
                states.append(row[real] if is_texts or pooling else row)
        if pooling is not None:
            states = [_POOLINGS[pooling](row) for row in states]
        if isinstance(inputs, str | bytes):
            return states[0]
        if is_texts and pooling is None:
            return states
        shape = (
            (0, self.backbone.hidden_dim)
            if pooling
            else (0, ids.shape[1], self.backbone.hidden_dim)
        )
        return np.stack(states) if states else np.zeros(shape, dtype=np.float32)

    def _source_arrays(self, inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        """Ids and mask [batch, length] of texts or of token arrays."""
        backbone = self.backbone
        if isinstance(inputs, Mapping):
            check_keys("inputs", inputs, (ENCODER_IDS, ENCODER_MASK), (DECODER_IDS, DECODER_MASK))
            ids = check_token_ids(ENCODER_IDS, inputs[ENCODER_IDS], backbone.vocabulary_size)
            mask = check_mask(ENCODER_MASK, inputs[ENCODER_MASK], ENCODER_IDS, ids.shape)
            check_length(ENCODER_IDS, ids.shape[1], backbone.max_sequence_length)
            return ids, mask
        if self.preprocessor is None:
            raise argument_error(
                "inputs",
                "must be a dict of token arrays, since the model has no preprocessor",
                inputs,
            )
        texts, _ = as_texts("inputs", inputs)
        length = min(self.preprocessor.encoder_sequence_length, backbone.max_sequence_length)
        arrays = self.preprocessor.generate_preprocess(texts, encoder_sequence_length=length)
        check_text_ids(self.preprocessor, backbone.vocabulary_size, arrays[ENCODER_IDS])
        return arrays[ENCODER_IDS], arrays[ENCODER_MASK]


def _real_width(mask: np.ndarray) -> int:
    """Up to the last column in which a row is real; at least one."""
    columns = np.flatnonzero(mask.any(axis=0))
    return int(columns[-1]) + 1 if columns.size else 1
