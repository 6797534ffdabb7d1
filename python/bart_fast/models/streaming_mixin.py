"""`stream()`: the text of an answer while it is being generated."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from bart_fast._validation import DECODER_IDS, DECODER_MASK, argument_error, check_flag
from bart_fast.models import generation
from bart_fast.models.bart_seq_2_seq_lm_preprocessor import BartSeq2SeqLMPreprocessor
from bart_fast.models.generation_mixin import Call, GenerationMixin
from bart_fast.models.text_inputs import Texts, is_token_arrays

# What bytes become that are no character (yet).
_REPLACEMENT = "\ufffd"

_ONE_TEXT = "must be one text: a string, or a dict `encoder_text` with one string"
_WAY_OUT = "`generate()` answers it"


class StreamingMixin(GenerationMixin):
    """Adds `stream()` to `generate()`."""

    def stream(
        self,
        inputs: Any,
        max_length: int | None = None,
        stop_token_ids: Any = "auto",
        strip_prompt: bool = False,
        *,
        speculative: str | None = "auto",
        **settings: Any,
    ) -> Iterator[str]:
        """The answer to one text, piece by piece while it is being generated.

        Joined, the pieces are what `generate()` returns for the same arguments. A piece is whole
        characters, mostly those of one token, and comes as soon as nothing can change it: with
        samplers after each token, with beams as soon as all sequences agree that can still win.

        Arguments are checked here, and a seed is drawn here; the model runs while the iterator is
        asked for pieces, and not in between. It may be used for other things meanwhile, other
        streams too. Closing the iterator, or dropping it, frees what it holds.

        Args:
            inputs: a string, or a dict `encoder_text` and, if wanted, the prompt `decoder_text`,
                a string each.
            max_length: int. As for `generate()`.
            stop_token_ids: as for `generate()`.
            strip_prompt: bool. As for `generate()`. Defaults to `False`.
            speculative: str. As for `generate()`; what was guessed right comes at once, in as many
                pieces. Defaults to `"auto"`.
            **settings: those of `generate()`, but no more than one answer: no
                `num_return_sequences` above 1, no `return_dict_in_generate`, no `overlap`.

        Returns:
            A generator of strings, none of them empty. With a sampler of your own that overrides
            `__call__`, or a preprocessor that overrides `generate_postprocess`, it yields the whole
            answer at once.

        Raises:
            ValueError: as `generate()`; or more than one text, or more than one answer, is asked
                for.
            TypeError: an unknown keyword.

        Example:

        ```python
        for piece in bart_lm.stream("i has two apple"):
            print(piece, end="", flush=True)
        ```
        """
        check_flag("strip_prompt", strip_prompt)
        settings["speculative"] = speculative
        texts = _one_text(self, inputs)
        call = Call.of(self, max_length, stop_token_ids, settings)
        _check_one_answer(call)
        request = self._request(call, inputs, texts)
        tokens, close = self._tokens(call, request)
        start = int(request.given_mask[0].sum()) if strip_prompt else 0
        return _pieces(tokens, close, self._reader(request, start))

    def _tokens(
        self, call: Call, request: generation.Request
    ) -> tuple[Iterator[list[int]], Callable[[], None]]:
        """The tokens of an answer as they become certain, and what frees the model."""
        options, limits = self._options(call, request)
        functions = call.settings.functions
        if call.method is None:
            from bart_fast.models.generation_in_python import stream_in_python  # Few need it.

            tokens = stream_in_python(
                call.sampler, self.backbone, request, limits, options, functions
            )
            return tokens, tokens.close
        core = generation.stream_from_core(self.backbone, request, limits, options, functions)
        return iter(core.advance, None), core.close

    def _reader(self, request: generation.Request, start: int) -> Callable[[list[int], bool], str]:
        """What gives the text of ids, from position `start` on, and is told whether these are all:
        else what later ids can change is left out."""
        preprocessor = self.preprocessor
        own = BartSeq2SeqLMPreprocessor.generate_postprocess
        # Another way to write text may change what was written with every token.
        is_certain = getattr(preprocessor.generate_postprocess, "__func__", None) is own

        def read(ids: list[int], is_all: bool) -> str:
            if is_all:
                result = generation.answer_arrays(request, [[generation.Answer(ids, 0.0)]])
                if start:
                    result = generation.strip_prompts(request, result)
                return self._postprocess(result, gives_lists=False)[0]
            if not is_certain:
                return ""
            row = np.array([ids[start:]], dtype=np.int64)
            arrays = {DECODER_IDS: row, DECODER_MASK: np.ones(row.shape, dtype=bool)}
            # Bytes at the end may be the beginning of a character.
            return preprocessor.generate_postprocess(arrays)[0].rstrip(_REPLACEMENT)

        return read


def _pieces(
    tokens: Iterator[list[int]],
    close: Callable[[], None],
    read: Callable[[list[int], bool], str],
) -> Iterator[str]:
    """Pieces of text from lists of new tokens; `close` is called whatever happens."""
    try:
        ids: list[int] = []
        told = 0
        for new in tokens:
            for token in new:
                ids.append(token)
                text = read(ids, False)
                if len(text) > told:
                    yield text[told:]
                    told = len(text)
        if rest := read(ids, True)[told:]:
            yield rest
    finally:
        close()


def _one_text(model: Any, inputs: Any) -> Texts:
    if model.preprocessor is None:
        raise ValueError(
            "`stream()` is of text, and the model has no preprocessor.\n"
            "hint: attach one, `model.preprocessor = ...`; `generate()` answers token arrays"
        )
    if is_token_arrays(inputs):
        raise argument_error("inputs", f"{_ONE_TEXT}, not token arrays", list(inputs), _WAY_OUT)
    # An array without axes is one text too.
    is_many = not isinstance(inputs, str | bytes | Mapping) and getattr(inputs, "shape", None) != ()
    if is_many:
        raise argument_error("inputs", _ONE_TEXT, inputs, _WAY_OUT)
    texts = model._texts(inputs)
    if not texts.is_single:
        raise argument_error("encoder_text", "must be one string", inputs, _WAY_OUT)
    return texts


def _check_one_answer(call: Call) -> None:
    values = call.settings.values
    if values.get("return_dict_in_generate"):
        raise argument_error(
            "return_dict_in_generate", "must be False: a stream is of strings", True, _WAY_OUT
        )
    if "overlap" in values:
        rule = "is not for a stream: windows are joined when the last is there"
        raise argument_error("overlap", rule, values["overlap"], _WAY_OUT)
    if (call.answers_each or 1) > 1:
        raise argument_error(
            "num_return_sequences", "must be 1 for a stream", call.answers_each, _WAY_OUT
        )
    if call.gives_lists:
        raise argument_error("return_all_beams", "must be False for a stream", True, _WAY_OUT)
