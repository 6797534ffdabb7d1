"""What `generate(..., return_dict_in_generate=True)` returns, and how it is put together."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from bart_fast._validation import DECODER_IDS, DECODER_MASK
from bart_fast.models import attention_output, generation
from bart_fast.models.text_inputs import Texts


@dataclass(frozen=True)
class GenerateOutput:
    """What `generate(..., return_dict_in_generate=True)` returns. Rows are answers: all of the
    first input, best first, then all of the second.

    Attributes:
        sequences: int32 array [rows, length], prompt and answer, padded.
        padding_mask: bool array [rows, length], `True` up to and including the stop token.
        texts: what `generate()` returns for strings otherwise; `None` for token arrays.
        sequences_scores: float32 array [rows], the scores of beam search; `None` for other methods
            and without `output_scores`.
        token_logprobs: float32 array [rows, length - prompt], where prompt is that of the shortest
            one: the log probability of each generated token, after all rules, as beams add them up
            and samplers draw from them; 0 elsewhere. `None` without `output_scores`.
        cross_attentions: float32 array [rows, layers, heads, length, source length]: the attention
            weights that chose each token of `sequences`, in the layers that `output_attentions`
            asks for. Place t of the fourth axis belongs to `sequences[:, t]`: these are the weights
            of the decoder position before it, from which it was predicted. 0 at the first token,
            which nothing predicts, and at padding. transformers has a tuple over steps of tuples
            over layers instead: its `cross_attentions[i][j][:, :, -1]` is `[:, j, :, p + i]` here,
            for prompts of p tokens. `None` without `output_attentions`.
        alignments: int32 array [rows, length]: the source position that the step which chose each
            token looked at most, mean over the chosen layers and heads; -1 where there is none: at
            the first token and at padding. `None` without `output_attentions`.
        source_offsets: int32 array [rows, source length, 2]: for strings, where in the source
            string each source token begins and ends, in characters, as tokenizers of Hugging Face
            say it; (0, 0) for `<s>`, `</s>` and padding. So what to highlight for token t is
            `start, end = source_offsets[r, alignments[r, t]]`. `None` for token arrays and without
            `output_attentions`.
    """

    sequences: np.ndarray
    padding_mask: np.ndarray
    texts: Any = None
    sequences_scores: np.ndarray | None = None
    token_logprobs: np.ndarray | None = None
    cross_attentions: np.ndarray | None = None
    alignments: np.ndarray | None = None
    source_offsets: np.ndarray | None = None


@dataclass(frozen=True)
class Generated:
    """All that is known after a generation.

    Attributes:
        model: the language model.
        call: what was asked for.
        request: the inputs as arrays.
        answers: for each input its answers, best first.
        result: the arrays of `generation.answer_arrays`, without the prompts if `is_stripped`.
        texts: the inputs, if they are strings.
        strings: the answers, if the inputs are strings.
    """

    model: Any
    call: Any
    request: generation.Request
    answers: list[list[generation.Answer]]
    result: dict[str, np.ndarray]
    is_stripped: bool
    texts: Texts | None
    strings: Any

    def output(self) -> GenerateOutput:
        """The object that users get."""
        call, result = self.call, self.result
        kept = slice(None) if call.answers_each is not None or call.gives_lists else slice(1)
        answers = [row[kept] for row in self.answers]
        ids, mask = (flat(result[name][:, kept]) for name in (DECODER_IDS, DECODER_MASK))
        width = ids.shape[1]
        # The longest answer with its prompt: that of a preprocessor says nothing about the answers.
        longest = max((len(each.ids) for row in answers for each in row), default=0)
        if self.texts is not None:
            width = int(mask.sum(axis=1).max(initial=0))
            ids, mask = ids[:, :width], mask[:, :width]
        scores = logprobs = None
        if call.settings.wants_scores:
            is_beams = call.method is not None and call.method["sampler"] == "beam"
            scores = flat(result["scores"][:, kept]) if is_beams else None
            full = longest if self.texts is not None else result[DECODER_IDS].shape[-1]
            logprobs = generation.logprob_array(self.request, answers, full)
        return GenerateOutput(
            ids, mask, self.strings, scores, logprobs, *self._attentions(answers, width, longest)
        )

    def _attentions(self, answers: list[list[generation.Answer]], width: int, longest: int) -> Any:
        """Weights, alignments and spans; `None` each without `output_attentions`."""
        if not self.call.attention_layers:
            return None, None, None
        request = self.request
        lengths = request.source_mask.sum(axis=1)
        # Of strings, the preprocessor's width says nothing either.
        columns = request.sources.shape[1]
        if self.texts is not None:
            columns = int(lengths.max(initial=0))
        core, layers = self.model.backbone._model, self.call.attention_layers
        size = (longest if self.is_stripped else width, columns)
        weights = attention_output.answer_attentions(core, request, answers, layers, size)
        counts = [len(row) for row in answers]
        if self.is_stripped:
            prompts = np.repeat(request.given_mask.sum(axis=1), counts)
            weights = attention_output.moved_left(weights, prompts, width)
        spans = None
        if self.texts is not None:
            preprocessor, texts = self.model.preprocessor, self.texts.encoder_text
            spans = attention_output.source_offsets(preprocessor, texts, lengths, columns)
            spans = None if spans is None else np.repeat(spans, counts, axis=0)
        return weights, attention_output.alignments(weights), spans


def flat(array: np.ndarray) -> np.ndarray:
    """[b, n, ...] to [b * n, ...]."""
    return array.reshape(-1, *array.shape[2:])
