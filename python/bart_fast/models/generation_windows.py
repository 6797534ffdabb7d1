"""`generate(..., overlap=n)`: long text in windows, all in one batch, and answers joined.

The windows and the joining are in `long_text.py`; here is what they have to do with a model.
"""

import warnings
from dataclasses import replace
from typing import Any

from bart_fast._validation import argument_error, caller_level
from bart_fast.models import long_text
from bart_fast.models.text_inputs import is_token_arrays

# Windows of a book would not fit into the memory at once.
_WINDOWS_AT_ONCE = 64

# `<s>` and `</s>` of a source, `</s> <s>` and `</s>` of an answer.
_SOURCE_MARKERS, _ANSWER_MARKERS = 2, 3

# A repaired text is often longer than what it comes from: marks are added.
_ANSWER_ROOM = 0.8


def generate_windows(model: Any, call: Any, inputs: Any) -> Any:
    """The answers to texts of any length.

    Args:
        model: the language model.
        call: what is asked for; its settings have `overlap`.
        inputs: what `generate()` got.

    Returns:
        A string for a string, a list for a list.

    Raises:
        ValueError: inputs or settings that windows cannot be used with.
    """
    _refuse_what_cannot_be_joined(call)
    if is_token_arrays(inputs):
        raise argument_error(
            "overlap", "is for strings", "token arrays", "leave it out, or pass strings"
        )
    texts = model._texts(inputs)
    if any(texts.decoder_text):
        raise argument_error(
            "decoder_text",
            "cannot be used together with `overlap`: an answer that is joined has no one beginning",
            next(filter(None, texts.decoder_text)),
            "pass one of the two",
        )
    windows = _windows(model, call, texts.encoder_text)
    # The first ones stand where their texts do, so that texts that fit draw what they would alone.
    order = [(i, 0) for i in range(len(windows))]
    order += [(i, k) for i, cut in enumerate(windows) for k in range(1, len(cut))]
    found = _answers(model, call, [windows[i][k].text for i, k in order])
    answers = dict(zip(order, found, strict=True))
    _warn_of_limits(model, call, [answers[i, k][1] for i, k in order if len(windows[i]) > 1])
    joined = [
        long_text.join(cut, [answers[i, k][0] for k in range(len(cut))])
        for i, cut in enumerate(windows)
    ]
    return joined[0] if texts.is_single else joined


def _refuse_what_cannot_be_joined(call: Any) -> None:
    settings = call.settings.values
    for name, why in (
        ("return_dict_in_generate", "the answers to the windows are joined as text"),
        ("prefix_allowed_tokens_fn", "inputs have no numbers of their own"),
    ):
        if settings.get(name):
            raise argument_error(
                name, f"cannot be used together with `overlap`: {why}", settings[name]
            )
    if call.gives_lists:
        name = "return_all_beams" if call.answers_each is None else "num_return_sequences"
        raise argument_error(
            name,
            "cannot be used together with `overlap`: each window must have one answer",
            call.answers_each or True,
        )


def _windows(model: Any, call: Any, texts: list[str]) -> list[list[long_text.Window]]:
    """Of each text; a text that fits is one window, as it is."""
    tokenizer, table = model.preprocessor.tokenizer, model.backbone.max_sequence_length

    def measure(strings: list[str]) -> list[int]:
        return [len(row) for row in tokenizer._ragged_ids(strings)]

    fitting = min(model.preprocessor.encoder_sequence_length, table) - _SOURCE_MARKERS
    room = min(fitting, int(_ANSWER_ROOM * (_answer_limit(model, call) - _ANSWER_MARKERS)))
    overlap = call.settings.values["overlap"]
    if overlap >= room:
        raise argument_error(
            "overlap",
            f"must be below the {max(room, 0)} tokens of a window",
            overlap,
            "windows are as long as `encoder_sequence_length`, `max_length` and the model's "
            "`max_sequence_length` allow",
        )
    return [
        [long_text.Window(text, 0, 0, "")]
        if size <= fitting
        else long_text.cut(text, measure, room, overlap)
        for text, size in zip(texts, measure(texts), strict=True)
    ]


def _answer_limit(model: Any, call: Any) -> int:
    """The most tokens of an answer, `</s> <s>` included."""
    table, limit = model.backbone.max_sequence_length, model._widest(call)
    if limit is None:
        limit = min(model.preprocessor.decoder_sequence_length, table)
    new_tokens = call.settings.values.get("max_new_tokens")
    return limit if new_tokens is None else min(limit, new_tokens + _ANSWER_MARKERS - 1)


def _answers(model: Any, call: Any, texts: list[str]) -> list[tuple[str, int]]:
    """The answers to `texts` and their lengths in tokens, some windows at a time."""
    settings, seed = call.settings, call.settings.values.get("seed")
    answers = []
    for start in range(0, len(texts), _WINDOWS_AT_ONCE):
        values = {**settings.values, "return_dict_in_generate": True, "output_scores": False}
        if seed is not None:
            values["seed"] = (seed + start) % 2**63
        part = replace(call, settings=replace(settings, values=values))
        output = model._generate(part, texts[start : start + _WINDOWS_AT_ONCE], False)
        answers += zip(output.texts, output.padding_mask.sum(axis=1), strict=True)
    return answers


def _warn_of_limits(model: Any, call: Any, lengths: list[int]) -> None:
    """Says how many answers to windows may lack their ends."""
    limit = _answer_limit(model, call)
    cut = sum(length == limit for length in lengths)
    if cut and call.stop_ids:
        warnings.warn(
            f"{cut} of {len(lengths)} answers to windows are as long as they may be, so text may "
            "be missing.\n"
            "hint: allow longer answers with `max_length`, or make windows shorter with the "
            "preprocessor's `encoder_sequence_length`",
            UserWarning,
            stacklevel=caller_level(),
        )
