"""The keywords of `generate()`: one table, from which checks, documentation and tests come.

Names and meaning are those of transformers' `GenerationConfig`.
"""

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

import numpy as np

from bart_fast._validation import (
    argument_error,
    check_finite_float,
    check_flag,
    check_int,
    check_positive_float,
    check_positive_int,
    check_probability,
    check_seed,
)
from bart_fast.models.attention_output import check_layer_list

# Rows of one input: each needs a cache of its own.
MOST_ROWS = 1024

# A check gets the name, the value and the size of the vocabulary; returns plain values.
Check = Callable[[str, Any, int], Any]


class Setting(NamedTuple):
    """A row of the table.

    Attributes:
        kind: the type.
        allowed: what values may be; others raise `ValueError`.
        meaning: what it does.
        check: raises, or returns the value in its plain form.
        wrong: values that are refused.
    """

    kind: str
    allowed: str
    meaning: str
    check: Check
    wrong: tuple[Any, ...]


def _plain(check: Callable[[str, Any], Any]) -> Check:
    return lambda name, value, vocabulary: check(name, value)


def _at_least(least: int) -> Check:
    return lambda name, value, vocabulary: check_int(name, value, least)


def _rows(name: str, value: Any, vocabulary: int) -> int:
    number = check_positive_int(name, value)
    if number > MOST_ROWS:
        raise argument_error(name, f"must be at most {MOST_ROWS}", value)
    return number


def _flag(name: str, value: Any, vocabulary: int) -> bool:
    return check_flag(name, value)


def _early_stopping(name: str, value: Any, vocabulary: int) -> bool | str:
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, str) and value == "never":
        return value
    raise argument_error(name, 'must be `True`, `False` or `"never"`', value)


def _share(name: str, value: Any, vocabulary: int) -> float:
    share = check_probability(name, value)
    if share == 0.0:
        raise argument_error(name, "must be above 0 and at most 1", value)
    return share


def _not_negative(name: str, value: Any, vocabulary: int) -> float:
    number = check_finite_float(name, value)
    if number < 0:
        raise argument_error(name, "must be a finite number of at least 0", value)
    return number


def _token_id(name: str, value: Any, vocabulary: int) -> int:
    number = check_int(name, value, 0)
    if number >= vocabulary:
        raise argument_error(name, f"must be a token id from 0 to {vocabulary - 1}", value)
    return number


def _items(name: str, value: Any, rule: str) -> list[Any]:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise argument_error(name, rule, value)
    return list(value)


def _token_ids(name: str, value: Any, vocabulary: int) -> list[int]:
    rule = f"must be token ids from 0 to {vocabulary - 1}"
    return [_token_id(name, each, vocabulary) for each in _items(name, value, rule)]


def _one_or_more_ids(name: str, value: Any, vocabulary: int) -> list[int]:
    several = isinstance(value, Iterable) and not (isinstance(value, np.ndarray) and not value.ndim)
    return _token_ids(name, value if several else [value], vocabulary)


def _words(name: str, value: Any, vocabulary: int) -> list[list[int]]:
    rule = "must be a list of words, each a list of one token id or more"
    words = [
        _token_ids(name, _items(name, each, rule), vocabulary) for each in _items(name, value, rule)
    ]
    if not words or not all(words):
        raise argument_error(name, rule, value, "leave it out to allow every word")
    return words


def _forced_words(name: str, value: Any, vocabulary: int) -> list[Any]:
    rule = "must be a list of words (each a list of token ids), or of lists of such words"
    forced = _items(name, value, rule)
    if not forced:
        raise argument_error(name, rule, value, "leave it out to force no word")
    # A list of words stands for "one of these".
    return [
        _words(name, each, vocabulary)
        if any(isinstance(part, Iterable) for part in _items(name, each, rule))
        else _words(name, [each], vocabulary)[0]
        for each in forced
    ]


def _decay(name: str, value: Any, vocabulary: int) -> list[Any]:
    rule = "must be a pair: how many tokens from 0 up, and a finite factor above 0"
    pair = _items(name, value, rule)
    if len(pair) != 2:
        raise argument_error(name, rule, value)
    return [check_int(name, pair[0], 0), check_positive_float(name, pair[1])]


def _function(name: str, value: Any, vocabulary: int) -> Callable[..., Any]:
    if not callable(value):
        raise argument_error(name, "must be a function", value)
    return value


def _functions(name: str, value: Any, vocabulary: int) -> list[Callable[..., Any]]:
    rule = "must be a list of functions"
    # transformers' lists of processors can be called themselves, but mean their items.
    single = callable(value) and not isinstance(value, Iterable)
    functions = [value] if single else _items(name, value, rule)
    if not all(callable(each) for each in functions):
        raise argument_error(name, rule, value)
    return functions


def _attentions(name: str, value: Any, vocabulary: int) -> bool | list[int]:
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    return check_layer_list(name, value)


def _config(name: str, value: Any, vocabulary: int) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        hint = "`config.to_dict()` turns transformers' object into one"
        raise argument_error(name, "must be a dict of settings", value, hint)
    return dict(value)


_COUNT = ("int", "1 or more")
_ROWS = ("int", f"1 to {MOST_ROWS}")
_FROM_ZERO = ("int", "0 or more")
_ID = ("int", "a token id")
_IDS = ("list of int", "token ids")
_BOOL = ("bool", "True or False")
_NOT_COUNTS = (0, -1, 2.5, "2", True)
_NOT_ROWS = (*_NOT_COUNTS, MOST_ROWS + 1)
_NOT_FROM_ZERO = (-1, 2.5, "2", True)
_NOT_IDS = (3, "3", [-1], [10**9], [2.5], [[1]])
_NOT_BOOLS = (1, "yes", 0.0)
_NOT_FUNCTIONS = (3, "function", [3])

# Name -> how it is checked. What is `None` counts as not given.
SETTINGS: dict[str, Setting] = {
    # How tokens are chosen.
    "num_beams": Setting(*_ROWS, "beams a text; 1 is greedy search", _rows, _NOT_ROWS),
    "length_penalty": Setting(
        "float",
        "finite",
        "beam scores are divided by length to this power; default 1.0",
        _plain(check_finite_float),
        ("long", float("nan"), float("inf")),
    ),
    "early_stopping": Setting(
        "bool or str",
        'True, False, "never"',
        "when beams stop looking for better answers",
        _early_stopping,
        (1, "soon", 0.5),
    ),
    "num_beam_groups": Setting(
        *_ROWS, "beams in groups that avoid each other's tokens", _rows, _NOT_ROWS
    ),
    "diversity_penalty": Setting(
        "float",
        "0 or more",
        "what a token costs for each group that just chose it",
        _not_negative,
        (-0.5, "much", float("inf")),
    ),
    "force_words_ids": Setting(
        "list",
        "words, or lists of words",
        "words that beams must say; of a list one",
        _forced_words,
        (3, [], [3], [[]], [[-1]], [[10**9]], [[[]]]),
    ),
    "num_return_sequences": Setting(
        *_ROWS, "answers a text; beams: at most `num_beams`", _rows, _NOT_ROWS
    ),
    "do_sample": Setting(*_BOOL, "whether tokens are drawn", _flag, _NOT_BOOLS),
    "temperature": Setting(
        "float",
        "above 0",
        "divides the scores before tokens are drawn; default 1.0",
        _plain(check_positive_float),
        (0, -1.0, "hot", float("inf")),
    ),
    "top_k": Setting(
        *_FROM_ZERO,
        "draws among so many tokens; default 50, 0 is no limit",
        _at_least(0),
        _NOT_FROM_ZERO,
    ),
    "top_p": Setting(
        "float",
        "0 to 1",
        "draws among the likeliest that reach this probability",
        _plain(check_probability),
        (1.5, -0.1, "p"),
    ),
    "min_p": Setting(
        "float",
        "0 to 1",
        "draws among tokens of this share of the best one's probability",
        _plain(check_probability),
        (1.5, -0.1, "p"),
    ),
    "typical_p": Setting(
        "float",
        "above 0, at most 1",
        "draws among the most typical that reach this probability",
        _share,
        (0.0, 1.5, -0.1, "p"),
    ),
    "seed": Setting(
        *_FROM_ZERO, "the same seed draws the same answers", _plain(check_seed), (-1, 1.0, 2**63)
    ),
    # Lengths, and where answers begin and end.
    "max_length": Setting(
        *_COUNT,
        "most tokens of an answer, prompt included",
        _plain(check_positive_int),
        _NOT_COUNTS,
    ),
    "max_new_tokens": Setting(
        *_FROM_ZERO, "most tokens after the prompt", _at_least(0), _NOT_FROM_ZERO
    ),
    "min_length": Setting(
        *_FROM_ZERO,
        "no stop token before so many tokens, prompt included",
        _at_least(0),
        _NOT_FROM_ZERO,
    ),
    "min_new_tokens": Setting(
        *_FROM_ZERO,
        "no stop token before so many tokens after the prompt",
        _at_least(0),
        _NOT_FROM_ZERO,
    ),
    "eos_token_id": Setting(
        "int or list of int",
        "token ids",
        "the same as `stop_token_ids`",
        _one_or_more_ids,
        ("</s>", -1, 10**9, [2.5], [[1]]),
    ),
    "decoder_start_token_id": Setting(
        *_ID, "answers start with it, in place of `</s> <s>`", _token_id, (-1, 10**9, "<s>", [2])
    ),
    "forced_bos_token_id": Setting(
        *_ID, "follows a start token that stands alone", _token_id, (-1, 10**9, "<s>", [2])
    ),
    "forced_eos_token_id": Setting(
        "int or list of int",
        "token ids",
        "stands at the last position of the length",
        _one_or_more_ids,
        ("</s>", -1, 10**9, [2.5]),
    ),
    "exponential_decay_length_penalty": Setting(
        "pair",
        "an int from 0, a factor above 0",
        "from so many tokens on, stops become likelier",
        _decay,
        (3, [3], [3, 0], [-1, 1.5], [3, "x"], [1, 2, 3]),
    ),
    # What is not said.
    "no_repeat_ngram_size": Setting(
        *_FROM_ZERO, "no so many tokens in a row twice; 0 is no rule", _at_least(0), _NOT_FROM_ZERO
    ),
    "encoder_no_repeat_ngram_size": Setting(
        *_FROM_ZERO, "no so many tokens in a row from the source", _at_least(0), _NOT_FROM_ZERO
    ),
    "repetition_penalty": Setting(
        "float",
        "above 0",
        "above 1, tokens that were said become unlikelier",
        _plain(check_positive_float),
        (0.0, -1.5, "much", float("inf")),
    ),
    "bad_words_ids": Setting(
        "list of lists of int",
        "words of token ids",
        "words that are not said",
        _words,
        (3, [], [3], [[]], [[-1]], [[10**9]], [[0.5]]),
    ),
    "suppress_tokens": Setting(*_IDS, "tokens that are not said", _token_ids, _NOT_IDS),
    "begin_suppress_tokens": Setting(
        *_IDS, "tokens that no answer begins with", _token_ids, _NOT_IDS
    ),
    # Functions.
    "prefix_allowed_tokens_fn": Setting(
        "function",
        "(input, ids [length]) -> token ids",
        "which tokens may follow",
        _function,
        _NOT_FUNCTIONS,
    ),
    "logits_processor": Setting(
        "list of functions",
        "(ids [1, length], scores [1, vocabulary]) -> scores",
        "changes the scores, after all other rules",
        _functions,
        _NOT_FUNCTIONS,
    ),
    "stopping_criteria": Setting(
        "list of functions",
        "(ids [1, length], None) -> bool",
        "ends an answer",
        _functions,
        _NOT_FUNCTIONS,
    ),
    # Long text, what comes back, and settings in a dict.
    "overlap": Setting(
        *_FROM_ZERO,
        "long text is read in windows that share so many tokens",
        _at_least(0),
        _NOT_FROM_ZERO,
    ),
    "return_dict_in_generate": Setting(
        *_BOOL, "gives a `GenerateOutput` of ids and texts", _flag, _NOT_BOOLS
    ),
    "output_scores": Setting(
        *_BOOL, "`GenerateOutput` has scores and log probabilities", _flag, _NOT_BOOLS
    ),
    "output_attentions": Setting(
        "bool or list of int",
        "True, False, or decoder layers",
        "`GenerateOutput` has attention to the source and alignments",
        _attentions,
        ("all", 3, [], [2.5], ["last"], [True]),
    ),
    "generation_config": Setting(
        "dict",
        "settings of this table",
        "settings; keywords of the call beat them",
        _config,
        (3, "greedy", [1]),
    ),
}

# Not for dicts and checkpoints: functions are of a call, and a dict holds no dict.
_CALL_ONLY = {
    "prefix_allowed_tokens_fn",
    "logits_processor",
    "stopping_criteria",
    "generation_config",
    "overlap",
    "seed",
}
# Fields of transformers' configs that change nothing here.
_PASSED_OVER = {
    "_from_model_config",
    "bos_token_id",
    "cache_implementation",
    "is_assistant",
    "output_hidden_states",
    "output_logits",
    "pad_token_id",
    "return_legacy_cache",
    "transformers_version",
    "use_cache",
}
# Fields that are not supported, at the values where they do nothing.
_NEUTRAL = {
    "encoder_repetition_penalty": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "guidance_scale": 1.0,
}
# Counts of transformers' drafting models: without one they do nothing.
_DRAFTING = ("assistant_", "num_assistant_", "prompt_lookup_", "max_matching_", "target_lookbehind")


def check_call(given: Mapping[str, Any], vocabulary_size: int) -> dict[str, Any]:
    """The keywords of a call in plain form; those that are `None` are left out.

    Raises:
        TypeError: an unknown keyword.
        ValueError: a value that the table refuses.
    """
    for name in given:
        if name not in SETTINGS:
            close = get_close_matches(name, [*SETTINGS, "stop_token_ids", "strip_prompt"], 1)
            hint = f"\nhint: did you mean `{close[0]}`?" if close else ""
            raise TypeError(f"generate() got an unexpected keyword argument `{name}`{hint}")
    return _checked(given, vocabulary_size)


def check_config(owner: str, config: Mapping[str, Any], vocabulary_size: int) -> dict[str, Any]:
    """The settings of a dict such as transformers' `generation_config.json`, in plain form.

    Args:
        owner: how the dict is called in messages.

    Raises:
        ValueError: a value that the table refuses, or a setting that is not supported.
    """
    known = {}
    for name, value in config.items():
        if value is None or name in _PASSED_OVER or str(name).startswith(_DRAFTING):
            continue
        if name in SETTINGS and name not in _CALL_ONLY:
            known[name] = value
        elif value is not False and value != _NEUTRAL.get(name, False):
            where = "is an argument of the call" if name in SETTINGS else "is not supported"
            allowed = ", ".join(name for name in SETTINGS if name not in _CALL_ONLY)
            raise ValueError(
                f"`{owner}`: the setting `{name}` {where}. Received: {value!r}.\n"
                f"hint: leave it out; known are {allowed}"
            )
    return _checked(known, vocabulary_size)


def _checked(given: Mapping[str, Any], vocabulary_size: int) -> dict[str, Any]:
    return {
        name: SETTINGS[name].check(name, value, vocabulary_size)
        for name, value in given.items()
        if value is not None
    }
