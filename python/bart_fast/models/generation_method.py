"""Which settings of a `generate()` call hold, and which method they ask for."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from bart_fast._validation import argument_error, caller_level
from bart_fast.models.generation_settings import check_call, check_config

# What applies with `do_sample` where nothing is said, as in transformers.
_DRAWING = {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": None, "typical_p": None}
_DRAWING_OFF = {**_DRAWING, "min_p": 0.0, "typical_p": 1.0}
_BEAMS = {
    "length_penalty": 1.0,
    "early_stopping": False,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "force_words_ids": None,
}
# What a method other than beams cannot do; the rest of `_BEAMS` only ranks beams.
_BEAMS_ONLY = ("num_beam_groups", "force_words_ids")
_CONSTRAINTS = (
    "repetition_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "bad_words_ids",
    "min_length",
    "min_new_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "exponential_decay_length_penalty",
    "suppress_tokens",
    "begin_suppress_tokens",
)
_FUNCTIONS = ("prefix_allowed_tokens_fn", "logits_processor", "stopping_criteria")


@dataclass(frozen=True)
class Settings:
    """All settings of a call, the more binding ones over the others.

    Attributes:
        values: name -> value in plain form.
        said: names that the caller said (and the checkpoint did not).
        do_sample: whether tokens are drawn; `None` if nobody says so.
        names_method: whether the settings choose the method, else the compiled sampler is it.
    """

    values: Mapping[str, Any]
    said: frozenset[str] = field(default_factory=frozenset)
    do_sample: bool | None = None
    names_method: bool = False

    @classmethod
    def of(
        cls, call: Mapping[str, Any], checkpoint: Mapping[str, Any] | None, vocabulary_size: int
    ) -> "Settings":
        """From the keywords of a call and, with the sampler `"preset"`, the checkpoint's settings.

        A keyword beats `generation_config`, which beats the checkpoint.

        Raises:
            TypeError: an unknown keyword.
            ValueError: a value that cannot be used.
        """
        call = check_call(call, vocabulary_size)
        config = check_config(
            "generation_config", call.pop("generation_config", {}), vocabulary_size
        )
        layers = [call, config]
        said = frozenset(call) | frozenset(config)
        if checkpoint is not None:
            layers.append(check_config("the preset's settings", checkpoint, vocabulary_size))
        for upper, lower in combinations(layers, 2):
            # As in transformers the new tokens of a call count, not the length of a checkpoint.
            if "max_new_tokens" in upper and "max_length" not in upper:
                lower.pop("max_length", None)
        values = {name: value for layer in reversed(layers) for name, value in layer.items()}
        if "min_new_tokens" in values and values.pop("min_length", 0) and "min_length" in said:
            # As in transformers.
            _warn("`min_length` is without effect, since `min_new_tokens` is given")
        do_sample = _wants_to_draw(call, config)
        named = do_sample is not None or "num_beams" in values
        if checkpoint is not None:
            # Other than for keywords, a temperature alone draws nothing in a checkpoint.
            do_sample = values.get("do_sample", False) if do_sample is None else do_sample
            named = True
        settings = cls(values, said, do_sample, named)
        settings._warn_of_what_does_nothing()
        return settings

    def _warn_of_what_does_nothing(self) -> None:
        if self.do_sample is False:
            idle = [
                n for n, off in _DRAWING_OFF.items() if n in self.said and self.values[n] != off
            ]
            if idle:
                _warn(f"{_names(idle)} without effect, since `do_sample` is False")
        for name in ("output_scores", "output_attentions"):
            wanted = name in self.said and self.values[name] is not False
            if wanted and not self.values.get("return_dict_in_generate"):
                _warn(f"`{name}` is without effect, since `return_dict_in_generate` is not True")

    @property
    def wants_scores(self) -> bool:
        """Whether the answer is an object with scores."""
        names = ("return_dict_in_generate", "output_scores")
        return all(self.values.get(name) for name in names)

    @property
    def constraints(self) -> dict[str, Any]:
        """The rules on the next token that JSON can hold."""
        return {name: self.values[name] for name in _CONSTRAINTS if name in self.values}

    @property
    def functions(self) -> dict[str, Any]:
        """The functions of the call."""
        return {name: self.values[name] for name in _FUNCTIONS if self.values.get(name)}

    def method(self, compiled: dict[str, Any] | None) -> dict[str, Any] | None:
        """Options of the core for the method of this call.

        Args:
            compiled: options of the compiled sampler; `None` if it runs in Python.

        Returns:
            The options, or `None` if the compiled sampler has to be asked in Python.

        Raises:
            ValueError: settings that exclude each other.
        """
        options = dict(compiled or {})
        if self.names_method:
            options = self._named_method()
        self._add_beam_settings(options)
        self._check_answers(options)
        return options or None

    def _named_method(self) -> dict[str, Any]:
        if self.values.get("num_beams", 1) > 1:
            options = {"sampler": "beam", "num_beams": self.values["num_beams"]}
            return {**options, "do_sample": True, **self._drawing()} if self.do_sample else options
        if self.do_sample:
            return {"sampler": "sample", **self._drawing()}
        return {"sampler": "greedy"}

    def _drawing(self) -> dict[str, Any]:
        chosen = {name: self.values.get(name, default) for name, default in _DRAWING.items()}
        return {name: value for name, value in chosen.items() if value is not None}

    def _add_beam_settings(self, options: dict[str, Any]) -> None:
        given = {name: self.values[name] for name in _BEAMS if name in self.values}
        if options.get("sampler") == "beam":
            options.update(given)
            self._check_groups(options)
            return
        said = [n for n in given if n in self.said and given[n] != _BEAMS[n]]
        for name in said:
            if name in _BEAMS_ONLY:
                raise argument_error(
                    name, "is for beam search", given[name], "pass `num_beams` above 1"
                )
        if said:
            _warn(f"{_names(said)} without effect, since there is only one beam")

    def _check_groups(self, options: Mapping[str, Any]) -> None:
        groups, beams = options.get("num_beam_groups", 1), options.get("num_beams", 5)
        if groups > 1 and beams % groups:
            raise argument_error(
                "num_beam_groups", f"must divide `num_beams`, which is {beams}", groups
            )
        for name in ("num_beam_groups", "force_words_ids"):
            if options.get("do_sample") and options.get(name) not in (None, 1):
                raise argument_error(
                    name,
                    "does not go together with drawing",
                    options[name],
                    "pass `do_sample=False`, without `temperature`, `top_k` and the like",
                )

    def _check_answers(self, options: dict[str, Any]) -> None:
        if (wanted := self.values.get("num_return_sequences")) is None:
            return
        sampler = options.get("sampler")
        if sampler == "beam":
            options.pop("return_all_beams", None)
            if wanted > options.get("num_beams", 5):
                raise argument_error(
                    "num_return_sequences",
                    f"must be at most `num_beams`, which is {options['num_beams']}",
                    wanted,
                )
        elif sampler == "greedy" and wanted > 1:
            raise argument_error(
                "num_return_sequences",
                "must be 1 for greedy search, which has one answer",
                wanted,
                "pass `do_sample=True`, or `num_beams`",
            )
        if options and (wanted > 1 or sampler == "beam"):
            options["num_return_sequences"] = wanted


def speculation(wanted: Any, method: Mapping[str, Any] | None, functions: Any) -> str | None:
    """Where guesses of the next tokens are made: `"auto"` or `"source"`, or `None` for nowhere.

    Args:
        wanted: the argument `speculative`.
        method: options of the core; `None` if the sampler is asked in Python.
        functions: functions of the call, which are to be asked as without guesses.

    Raises:
        ValueError: another value.
    """
    if wanted not in ("auto", "source", None):
        raise argument_error("speculative", 'must be "auto", "source" or `None`', wanted)
    if method is None:
        why = "the sampler is asked in Python"
    elif method["sampler"] in ("beam", "contrastive"):
        why = "this method tries several tokens in each place"
    elif functions:
        why = f"{_names(list(functions))} asked for each token"
    else:
        return wanted
    if wanted == "source":
        _warn(f"`speculative` is without effect, since {why}")
    return None


def _wants_to_draw(*layers: Mapping[str, Any]) -> bool | None:
    """What the first layer says that says something."""
    for layer in layers:
        if "do_sample" in layer:
            return layer["do_sample"]
        if any(name in layer for name in _DRAWING):
            return True
    return None


def _names(names: list[str]) -> str:
    text = ", ".join(f"`{name}`" for name in names)
    return f"{text} {'are' if len(names) > 1 else 'is'}"


def _warn(message: str) -> None:
    warnings.warn(message + ".", UserWarning, stacklevel=caller_level())
