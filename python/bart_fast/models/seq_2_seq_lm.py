"""The base class of sequence-to-sequence language models: generate and predict."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bart_fast._texts import as_texts
from bart_fast._validation import (
    DECODER_IDS,
    DECODER_MASK,
    ENCODER_IDS,
    argument_error,
    check_positive_int,
    check_seed,
    check_token_arrays,
)
from bart_fast.models import generation
from bart_fast.models.bart_backbone import BartBackbone, batches
from bart_fast.models.task import Task
from bart_fast.samplers.sampler import core_options
from bart_fast.samplers.seeded_sampler import SeededSampler
from bart_fast.training.fit import TrainingMixin

# Answers to strings start with `</s> <s>`.
_START_TOKENS = 2


class Seq2SeqLM(TrainingMixin, Task):
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

    def generate(
        self,
        inputs: Any,
        max_length: int | None = None,
        stop_token_ids: Any = "auto",
        strip_prompt: bool = False,
        *,
        max_new_tokens: int | None = None,
        min_new_tokens: int | None = None,
        min_length: int | None = None,
        seed: int | None = None,
    ) -> Any:
        """Answers to `inputs`, chosen token by token by the sampler of `compile()`.

        Strings are tokenised by the preprocessor, and answers start with `</s> <s>` and the
        prompt, if there is one. An empty string is a source of `<s> </s>`, and an empty list gives
        an empty list.

        Token arrays are taken as they are. Positions of `decoder_token_ids` whose
        `decoder_padding_mask` is `True` are the prompt, and its width is the limit of the answer.
        Without these two, the answer starts as the preset the model came from says
        (Hugging Face: `decoder_start_token_id`; Keras: `</s> <s>`). A mask with fewer columns than
        its ids counts as `False` beyond its end, with a warning.

        Args:
            inputs: a string; a list of strings; a dict `encoder_text` and, if wanted, the prompts
                `decoder_text`; or a dict of token arrays `encoder_token_ids`,
                `encoder_padding_mask` and, if wanted, `decoder_token_ids`, `decoder_padding_mask`.
            max_length: int. The longest answer in tokens, prompt included. Defaults to the
                preprocessor's `decoder_sequence_length`, or the position table if that is shorter.
            stop_token_ids: `"auto"` is the end id of the tokenizer, else of the preset; `None`
                stops at `max_length` only; else an id or several. Defaults to `"auto"`.
            strip_prompt: bool. Leave the prompt out of the answer. Defaults to `False`.
            max_new_tokens: int. Limits what follows the prompt.
            min_new_tokens: int. No stop token before so many tokens follow the prompt.
            min_length: int. No stop token before the answer, prompt included, has so many tokens.
            seed: int. Random samplers: the same seed gives the same answers. Defaults to `None`:
                the sampler's own seed, which moves on from call to call.

        Returns:
            A string for a string, a list of strings for a list. For token arrays a dict
            `decoder_token_ids` int32 [batch, length] and `decoder_padding_mask` bool, `True` up to
            and including the stop token; past it given values stay, else the pad id. With
            `BeamSampler(return_all_beams=True)`: a list of strings for each string, and
            [batch, num_beams, length] with `scores` [batch, num_beams].

        Raises:
            ValueError: the message names the argument and the way out.

        Example:

        ```python
        bart_lm = bart_fast.models.BartSeq2SeqLM.from_preset("bart_tidy_en")
        bart_lm.generate("the quick brown fox", max_length=30)
        bart_lm.generate({"encoder_text": "the quick brown fox", "decoder_text": "The"})
        ```
        """
        sampler = self._compiled_sampler()
        if max_length is not None:
            check_positive_int("max_length", max_length)
        stop_ids = generation.resolve_stop_ids(
            stop_token_ids, self._special_tokens().end_ids, self.backbone.vocabulary_size
        )
        texts = None if is_token_arrays(inputs) else self._texts(inputs)
        if texts is not None and not texts.encoder_text:
            return []
        arrays = inputs if texts is None else self._preprocess(texts, max_length)
        request = generation.request_from_arrays(
            arrays, max_length, self.backbone, self._special_tokens()
        )
        lengths = generation.resolve_lengths(request, max_new_tokens, min_new_tokens, min_length)
        limits = generation.row_limits(request, max_new_tokens)
        answers = self._answers(sampler, request, limits, stop_ids, lengths, seed)
        result = generation.answer_arrays(request, answers)
        if strip_prompt:
            result = generation.strip_prompts(request, result)
        all_beams = getattr(sampler, "return_all_beams", False)
        if texts is None:
            return result if all_beams else _first_beams(result)
        strings = self._postprocess(result, all_beams)
        return strings[0] if texts.is_single else strings

    def _compiled_sampler(self) -> Callable[..., Any]:
        if self.sampler is None:
            raise ValueError(
                "`generate()` needs a sampler, and the model is not compiled with one.\n"
                'hint: call `compile(sampler="greedy")`'
            )
        return self.sampler

    def _special_tokens(self) -> generation.SpecialTokens:
        """Special ids of the preset, completed or overridden by those of the tokenizer."""
        preset = self.backbone._special_tokens
        tokenizer = getattr(self.preprocessor, "tokenizer", None)
        if tokenizer is None or tokenizer.end_token_id is None:
            return preset
        end = tokenizer.end_token_id
        return generation.SpecialTokens(
            start_ids=preset.start_ids or (end, tokenizer.start_token_id),
            end_ids=(end,),
            pad_id=tokenizer.pad_token_id,
        )

    def _texts(self, inputs: Any) -> "Texts":
        if self.preprocessor is None:
            raise argument_error(
                "inputs",
                "must be a dict of token arrays, since the model has no preprocessor",
                inputs,
                "attach one to pass strings: `model.preprocessor = ...`",
            )
        return Texts.from_inputs(inputs)

    def _preprocess(self, texts: "Texts", max_length: int | None) -> dict[str, np.ndarray]:
        """Token arrays of `texts`; sequences fit the position table."""
        preprocessor, table = self.preprocessor, self.backbone.max_sequence_length
        limit = max_length
        if limit is None:
            limit = min(preprocessor.decoder_sequence_length, table)
        generation.check_limit("max_length", limit, table)
        if limit < _START_TOKENS:
            raise argument_error(
                "max_length",
                f"must be at least {_START_TOKENS}: answers to strings start with `</s> <s>`",
                max_length,
            )
        return preprocessor.generate_preprocess(
            {"encoder_text": texts.encoder_text, "decoder_text": texts.decoder_text},
            encoder_sequence_length=min(preprocessor.encoder_sequence_length, table),
            decoder_sequence_length=limit,
        )

    def _answers(
        self,
        sampler: Callable[..., Any],
        request: generation.Request,
        limits: list[int],
        stop_ids: list[int],
        lengths: dict[str, int],
        seed: int | None,
    ) -> list[list[generation.Answer]]:
        if seed is not None:
            check_seed("seed", seed)
        if len(request) == 0:
            return []
        options = core_options(sampler)
        if options is None:
            if seed is not None:
                raise argument_error(
                    "seed", "is for the built-in samplers; yours draws in Python", seed
                )
            return generation.generate_in_python(
                sampler, self.backbone, request, limits, stop_ids, lengths
            )
        if isinstance(sampler, SeededSampler):
            options["seed"] = sampler.next_call_seed() if seed is None else seed
        options.update(lengths, stop_token_ids=stop_ids)
        return generation.generate_in_core(self.backbone, request, limits, options)

    def _postprocess(self, result: dict[str, np.ndarray], all_beams: bool) -> list[Any]:
        ids, mask = result[DECODER_IDS], result[DECODER_MASK]
        rows, beams, width = ids.shape
        flat = {DECODER_IDS: ids.reshape(-1, width), DECODER_MASK: mask.reshape(-1, width)}
        strings = list(self.preprocessor.generate_postprocess(flat))
        grouped = [strings[row * beams : (row + 1) * beams] for row in range(rows)]
        return grouped if all_beams else [group[0] for group in grouped]


class Texts:
    """String inputs, as lists: `encoder_text` and the prompts `decoder_text`."""

    def __init__(self, encoder_text: list[str], decoder_text: list[str], is_single: bool):
        self.encoder_text = encoder_text
        self.decoder_text = decoder_text
        self.is_single = is_single

    @classmethod
    def from_inputs(cls, inputs: Any) -> "Texts":
        """Checks a string, a list of strings, or a dict of these.

        Raises:
            ValueError: anything else, or as many prompts as there are no texts.
        """
        if not isinstance(inputs, Mapping):
            inputs = {"encoder_text": inputs}
        unknown = [repr(key) for key in inputs if key not in ("encoder_text", "decoder_text")]
        if unknown or "encoder_text" not in inputs:
            raise argument_error(
                "inputs",
                "must be a string, a list of strings, a dict with `encoder_text` and, if wanted, "
                "`decoder_text`, or a dict of token arrays",
                list(inputs),
            )
        encoder, batched = as_texts("encoder_text", inputs["encoder_text"])
        if inputs.get("decoder_text") is None:
            return cls(encoder, [""] * len(encoder), not batched)
        decoder, decoder_batched = as_texts("decoder_text", inputs["decoder_text"])
        if len(decoder) != len(encoder) or decoder_batched != batched:
            raise ValueError(
                "`decoder_text` must have one prompt for each `encoder_text`, both a string or "
                f"both lists. Received: {len(encoder)} texts and {len(decoder)} prompts."
            )
        return cls(encoder, decoder, not batched)


def is_token_arrays(inputs: Any) -> bool:
    """Whether `inputs` is meant as token arrays (and not as strings)."""
    return isinstance(inputs, Mapping) and ENCODER_IDS in inputs


def _first_beams(result: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: result[key][:, 0] for key in (DECODER_IDS, DECODER_MASK)}
