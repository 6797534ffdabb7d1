"""The base class of text classifiers: predict, classify, and labels that nobody trained for."""

import os
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from bart_fast._texts import as_texts
from bart_fast._validation import (
    ENCODER_IDS,
    ENCODER_MASK,
    argument_error,
    caller_level,
    check_length,
    check_mask,
    check_positive_int,
    check_token_ids,
)
from bart_fast.models import zero_shot
from bart_fast.models.bart_text_classifier_preprocessor import (
    PADDING_MASK,
    TOKEN_IDS,
    BartTextClassifierPreprocessor,
    text_segments,
)
from bart_fast.models.classification_rows import ClassifiedRows, rows_of_arrays
from bart_fast.models.task import Task
from bart_fast.training.arguments import check_verbose
from bart_fast.training.batches import Batches
from bart_fast.training.data import open_data
from bart_fast.training.labelled import LabelledTrainingMixin


class TextClassifier(LabelledTrainingMixin, Task):
    """Base class of models that say which class a text belongs to: `predict()`, `classify()`,
    `classify_zero_shot()`, and `fit()` on texts with a label each.

    Use `BartTextClassifier`, or load any preset with `TextClassifier.from_preset()`, which returns
    the right class.
    """

    _preprocessor_name = "BartTextClassifierPreprocessor"

    @property
    def _core_head(self) -> Any:
        return self._head.core

    @property
    def _trains_something(self) -> bool:
        return True

    @classmethod
    def from_preset(
        cls,
        preset: str | os.PathLike,
        load_weights: bool = True,
        dtype: Any = None,
        device: Any = None,
        **kwargs: Any,
    ) -> "TextClassifier":
        """A classifier from a preset, with the head of the preset or a new one.

        Args:
            preset: a name in `presets`, a handle such as `"hf://facebook/bart-large-mnli"`, or the
                path of a directory written by `save_to_preset()` or Hugging Face's
                `BartForSequenceClassification`.
            load_weights, dtype, device: as for `BartSeq2SeqLM.from_preset()`. The head computes in
                float32.
            **kwargs: constructor arguments, such as `id2label`. `num_classes` asks, as in
                keras-hub, for a new head with random weights; presets without a head need it.

        Raises:
            ValueError: the preset has no head and `num_classes` is not given, it is unknown, its
                files do not fit together, or an argument is not allowed.
            FileNotFoundError: a file of the preset is missing.
            ConnectionError: the preset could not be fetched.
        """
        return super().from_preset(preset, load_weights, dtype, device, **kwargs)

    def __call__(self, x: Any, training: bool | None = None) -> np.ndarray:
        """`predict(x)`. `training` must be `None` or `False`."""
        if training:
            raise argument_error(
                "training", "must be False", training, "`fit()` and `train_on_batch()` train"
            )
        return self.predict(x, verbose=0)

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: Any = "auto",
        steps: int | None = None,
        callbacks: Any = None,
    ) -> np.ndarray:
        """Scores of each class.

        Args:
            x: a string or a list of strings; a tuple `(first, second)` of either, or a list of
                pairs, for pairs of texts; or a dict of token arrays `token_ids` and `padding_mask`
                [batch, length], which may also be called `encoder_token_ids` and
                `encoder_padding_mask`; or an iterable of batches of these, with or without labels.
            batch_size: int. Rows computed at a time. Defaults to 32; `None` for an iterable.
            verbose: 0 silent, 1 or `"auto"` (default) a progress bar, 2 one line.
            steps: int. Batches to compute. Defaults to all.
            callbacks: list of `Callback`.

        Returns:
            float32 array [batch, num_classes]: logits, or what `activation` makes of them. One
            string is a batch of one.

        Raises:
            ValueError: an argument is missing, misshapen or out of range, or a row of token arrays
                has no end token.

        Warns:
            UserWarning: texts are longer than `sequence_length` or the model, and are cut.
        """
        if _is_stream(x):
            stream = Batches(open_data(x), batch_size, steps=steps)
            parts = (self._rows(raw[0]) for raw in stream.epoch(0))
            known = stream.steps
        else:
            rows = self._rows(x)
            size = 32 if batch_size is None else check_positive_int("batch_size", batch_size)
            starts = range(0, len(rows), size)
            if steps is not None:
                starts = starts[: check_positive_int("steps", steps)]
            parts = (rows.part(start, start + size) for start in starts)
            known = len(starts)
        callbacks = self._callback_list(callbacks, check_verbose(verbose), 1, known)
        try:
            return self._activated(self._predict(parts, callbacks))
        finally:
            callbacks.close()

    def _predict(self, parts: Iterable[ClassifiedRows], callbacks: Any) -> np.ndarray:
        scores = [np.zeros((0, self.num_classes), np.float32)]
        self.stop_predicting = False
        callbacks.on_predict_begin()
        for step, part in enumerate(parts):
            callbacks.on_predict_batch_begin(step)
            scores.append(self._compute(part, max(len(part), 1), None))
            callbacks.on_predict_batch_end(step)
            if self.stop_predicting:
                break
        callbacks.on_predict_end()
        return np.concatenate(scores)

    def predict_on_batch(self, x: Any) -> np.ndarray:
        """Scores of each class, computed as one batch; see `predict()`."""
        rows = self._rows(x)
        return self._activated(self._compute(rows, max(len(rows), 1), None))

    def classify(
        self, inputs: Any, top_k: int | None = 1, batch_size: int = 32
    ) -> dict[str, Any] | list[Any]:
        """The labels of texts, as transformers' pipeline `text-classification` gives them.

        Args:
            inputs: as for `predict()`.
            top_k: int, how many labels a text gets, best first; `None` for all. Defaults to 1.
            batch_size: int. Rows computed at a time. Defaults to 32.

        Returns:
            For each text a dict of `label` and `score`; with another `top_k` than 1 a list of
            such. For one string, what it gets, else a list. A score is the probability: softmax
            over the classes, sigmoid where there is one class or `problem_type` is
            `"multi_label_classification"`, and the logit for `"regression"`.

        Raises:
            ValueError: as `predict()`; or `top_k` is out of range.
        """
        if top_k is not None:
            check_positive_int("top_k", top_k)
        is_one = not isinstance(inputs, Mapping) and not text_segments("inputs", inputs)[1]
        answers = []
        for scores in self._probabilities(self._logits(inputs, batch_size, None)):
            order = np.argsort(-scores, kind="stable")[:top_k]
            labels = [{"label": self.id2label[i], "score": float(scores[i])} for i in order]
            answers.append(labels[0] if top_k == 1 else labels)
        return answers[0] if is_one else answers

    def classify_zero_shot(
        self,
        texts: Any,
        candidate_labels: Any,
        hypothesis_template: str = "This example is {}.",
        multi_label: bool = False,
        batch_size: int = 32,
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Which of some labels, chosen at will, are true of texts.

        For a model of entailment, such as bart-large-mnli: each label becomes a sentence, and the
        model says whether it follows from the text. Numbers are those of transformers' pipeline
        `zero-shot-classification`.

        Every pair of a text and a label goes through the model: its encoder reads both together,
        so that what it makes of a text differs from label to label and cannot be shared. A text is
        tokenised once, and its pairs are computed side by side without padding.

        Args:
            texts: a string or a list of strings. What is too long loses its end; labels stay whole.
            candidate_labels: a list of strings, or a string with commas between the labels.
            hypothesis_template: str. The sentence, with `{}` where the label goes. Defaults to
                `"This example is {}."`.
            multi_label: bool. Whether several labels can be true: then each has a score of its own,
                the probability of entailment against contradiction; else the scores of a text sum
                to 1. With one label there is nothing to sum, and it counts as `True`. Defaults to
                `False`.
            batch_size: int. Pairs computed at a time. Defaults to 32.

        Returns:
            For each text a dict of `sequence`, the text, `labels`, best first, and `scores`, a list
            of floats. One dict for one string.

        Raises:
            ValueError: an argument is out of range, a label leaves no room for the text, or no
                class of the model is called entailment.

        Example:

        ```python
        backbone = bart_fast.models.BartBackbone(30, 2, 2, 16, 24, max_sequence_length=24)
        classifier = bart_fast.models.BartTextClassifier(
            backbone,
            num_classes=3,
            preprocessor=bart_fast.models.BartTextClassifierPreprocessor(model.preprocessor.tokenizer),
            id2label=["contradiction", "neutral", "entailment"],
        )
        answer = classifier.classify_zero_shot("a fox", ["sea", "wood"], "in the {}")
        assert sorted(answer["labels"]) == ["sea", "wood"] and sum(answer["scores"]) > 0.99
        ```

        Reference:
            Yin et al., 2019, "Benchmarking Zero-shot Text Classification" (arXiv:1909.00161).
        """
        entailment = zero_shot.entailment_id(self.label2id)
        if self.num_classes < 2:
            raise argument_error("num_classes", "must be 2 or more for zero-shot", 1)
        labels = zero_shot.candidate_list(candidate_labels)
        sentences = zero_shot.hypotheses(hypothesis_template, labels)
        sources, batched = as_texts("texts", texts)
        if not isinstance(multi_label, bool):
            raise argument_error("multi_label", "must be `True` or `False`", multi_label)
        rows = self._zero_shot_rows(sources, sentences)
        logits = self._compute(rows, batch_size, None)
        logits = logits.reshape(len(sources), len(labels), self.num_classes)
        answers = [
            zero_shot.sorted_answer(
                text, labels, zero_shot.label_scores(each, entailment, multi_label)
            )
            for text, each in zip(sources, logits, strict=True)
        ]
        return answers if batched else answers[0]

    def _zero_shot_rows(self, texts: list[str], sentences: list[str]) -> ClassifiedRows:
        preprocessor, width = self._text_preprocessor("texts"), self._width()
        premises = preprocessor.tokenizer._ragged_ids(texts)
        others = preprocessor.tokenizer._ragged_ids(sentences)
        longest = max(map(len, others))
        # `<s> text </s></s> label </s>`, a token of the text at least.
        if longest > width - 5:
            raise ValueError(
                f"`candidate_labels` must leave room for the text: a label with its template has "
                f"{longest} tokens, and a pair has {width} with its markers.\n"
                "hint: shorten the label or `hypothesis_template`"
            )
        pairs = [
            [each for each in premises for _ in others],
            [each for _ in premises for each in others],
        ]
        rows, *cut = preprocessor._joined(pairs, width, "only_first")
        _warn_of_cuts(*cut, len(rows), width)
        return self._closed(rows)

    def _summary_rows(self, title: str) -> list[tuple[str, str, str]]:
        """Layers, their output shapes and numbers of weights, for `summary()`."""
        width, inner, classes = self.backbone.hidden_dim, self.hidden_dim, self.num_classes
        return [
            ("padding_mask (InputLayer)", "(None, None)", "0"),
            ("token_ids (InputLayer)", "(None, None)", "0"),
            (title, f"(None, None, {width:,})", f"{self.backbone.count_params():,}"),
            ("pooled_dense (Dense)", f"(None, {inner:,})", f"{(width + 1) * inner:,}"),
            ("logits (Dense)", f"(None, {classes:,})", f"{(inner + 1) * classes:,}"),
        ]

    # The way through the model.

    def _logits(self, x: Any, batch_size: int | None, steps: int | None) -> np.ndarray:
        return self._compute(self._rows(x), batch_size, steps)

    def _rows(self, x: Any) -> ClassifiedRows:
        """Texts or token arrays, ready to be computed."""
        if isinstance(x, Mapping):
            return self._rows_of_arrays(x)
        preprocessor, width = self._text_preprocessor("x"), self._width()
        segments, _ = text_segments("x", x)
        rows, *cut = preprocessor._packed(segments, width)
        _warn_of_cuts(*cut, len(rows), width)
        return self._closed(rows)

    def _compute(
        self, rows: ClassifiedRows, batch_size: int | None, steps: int | None
    ) -> np.ndarray:
        size = 32 if batch_size is None else check_positive_int("batch_size", batch_size)
        if steps is not None:
            rows = rows.part(0, size * check_positive_int("steps", steps))
        parts = [np.zeros((0, self.num_classes), np.float32)]
        for start in range(0, len(rows), size):
            part = rows.part(start, start + size)
            parts.append(self._head.core.classify(self.backbone._model, *part.arguments()))
        return np.concatenate(parts)

    def _rows_of_arrays(self, x: Mapping[str, Any]) -> ClassifiedRows:
        names = (ENCODER_IDS, ENCODER_MASK) if ENCODER_IDS in x else (TOKEN_IDS, PADDING_MASK)
        if set(x) != set(names):
            raise argument_error(
                "x", f"must be texts, or a dict of `{TOKEN_IDS}` and `{PADDING_MASK}`", list(x)
            )
        ids = check_token_ids(names[0], x[names[0]], self.backbone.vocabulary_size)
        mask = check_mask(names[1], x[names[1]], names[0], ids.shape)
        check_length(names[0], ids.shape[1], self.backbone.max_sequence_length)
        special = self._special_tokens()
        return rows_of_arrays(ids, mask, special.start_ids[:1], special.end_ids[:1], names)

    def _closed(self, rows: list[list[int]]) -> ClassifiedRows:
        """Rows that end with their end token, ready to be computed."""
        starts = self._special_tokens().start_ids
        start = starts[0] if starts else self.preprocessor.tokenizer.end_token_id
        return ClassifiedRows(rows, None, [[start, *row[:-1]] for row in rows])

    def _special_tokens(self) -> Any:
        """Special ids of the preset, or else of the tokenizer."""
        preset = self.backbone._special_tokens
        tokenizer = getattr(self.preprocessor, "tokenizer", None)
        if preset.end_ids or tokenizer is None or tokenizer.end_token_id is None:
            return preset
        end = tokenizer.end_token_id
        return type(preset)((end, tokenizer.start_token_id), (end,), tokenizer.pad_token_id)

    def _width(self) -> int:
        return min(self.preprocessor.sequence_length, self.backbone.max_sequence_length)

    def _text_preprocessor(self, name: str) -> BartTextClassifierPreprocessor:
        if not isinstance(self.preprocessor, BartTextClassifierPreprocessor):
            raise argument_error(
                name,
                "must be a dict of token arrays, since the model has no preprocessor of texts",
                type(self.preprocessor).__name__,
                "attach one: `model.preprocessor = BartTextClassifierPreprocessor(tokenizer)`",
            )
        return self.preprocessor

    def _probabilities(self, logits: np.ndarray) -> np.ndarray:
        logits = logits.astype(np.float64)
        if self.problem_type == "regression":
            return logits
        if self.problem_type == "multi_label_classification" or self.num_classes == 1:
            return 1.0 / (1.0 + np.exp(-logits))
        return zero_shot.softmax(logits)


def _is_stream(x: Any) -> bool:
    """Whether `x` yields batches, and is neither texts nor arrays itself."""
    is_given = isinstance(x, str | bytes | Mapping | list | tuple) or hasattr(x, "__array__")
    return not is_given and (isinstance(x, Iterable) or hasattr(x, "__getitem__"))


def _warn_of_cuts(cut_rows: int, cut_tokens: int, rows: int, width: int) -> None:
    """Says how much of texts is left out."""
    if cut_rows:
        which = "a text" if rows == 1 else f"{cut_rows} of {rows} rows"
        warnings.warn(
            f"the end of {which} is left out, {cut_tokens} tokens: `sequence_length` or the model "
            f"has room for {width} with their markers.",
            UserWarning,
            stacklevel=caller_level(),
        )
