"""Beam search."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bart_fast._validation import argument_error, check_finite_float, check_flag, check_positive_int
from bart_fast.samplers import beam_search
from bart_fast.samplers.sampler import Sampler, _prepare

_STOPPING = (True, False, "never")


class BeamSampler(Sampler):
    """Keeps the `num_beams` most probable sequences, and answers with the best one.

    By default this is the search of Hugging Face's `generate()`: a beam that produces a stop token
    is set aside with the score `log probability / length ** length_penalty`, where the length
    counts the tokens after the prompt, and the best of those set aside is the answer. With
    `compat="keras"` it is the search of keras-hub: beams that have ended are extended and scored
    on until all of them, in the whole batch, have ended, and are ranked by summed log probability.
    The answer of a row then depends on the other rows of its batch.

    Args:
        num_beams: int, 1 or more. Defaults to 5.
        return_all_beams: bool. If `True`, `generate()` returns for each input all beams, best
            first: lists of strings, or token arrays [batch, num_beams, length] and `scores`
            [batch, num_beams]. Defaults to `False`.
        length_penalty: float. Above 0 long answers gain, below 0 short ones. Defaults to 1.0.
        early_stopping: `True` stops when `num_beams` answers have ended; `False` when a running
            beam is unlikely to become better; `"never"` when none can. Defaults to `False`.
        compat: `None` for Hugging Face's rule or `"keras"`. Defaults to `None`.
        temperature: float above 0. Defaults to 1.0.

    Example:

    ```python
    bart_lm.compile(sampler=bart_fast.samplers.BeamSampler(num_beams=4, length_penalty=2.0))
    bart_lm.generate("The quick brown fox")
    ```
    """

    _core_name = "beam"

    def __init__(
        self,
        num_beams: int = 5,
        return_all_beams: bool = False,
        length_penalty: float = 1.0,
        early_stopping: bool | str = False,
        compat: str | None = None,
        temperature: float = 1.0,
    ):
        super().__init__(temperature=temperature)
        self.num_beams = check_positive_int("num_beams", num_beams)
        self.return_all_beams = check_flag("return_all_beams", return_all_beams)
        self.length_penalty = check_finite_float("length_penalty", length_penalty)
        if isinstance(early_stopping, np.bool_):
            early_stopping = bool(early_stopping)
        # 1 and 0 would be equal to `True` and `False`.
        if not isinstance(early_stopping, bool | str) or early_stopping not in _STOPPING:
            raise argument_error(
                "early_stopping", 'must be `True`, `False` or `"never"`', early_stopping
            )
        self.early_stopping = early_stopping
        if compat not in (None, "keras"):
            raise argument_error("compat", 'must be `None` or `"keras"`', compat)
        if compat == "keras" and (self.length_penalty != 1.0 or early_stopping is not False):
            raise ValueError(
                '`compat="keras"` ranks by summed log probability and knows neither '
                f"`length_penalty` (received {length_penalty!r}) nor `early_stopping` (received "
                f"{early_stopping!r}).\nhint: leave both at their defaults, or use `compat=None`"
            )
        self.compat = compat

    def __call__(
        self,
        next: Callable[..., tuple[Any, Any, Any]],
        prompt: Any,
        cache: Any = None,
        index: int = 0,
        mask: Any = None,
        stop_token_ids: Sequence[int] | None = None,
        hidden_states: Any = None,
        model: Any = None,
    ) -> Any:
        """Fills `prompt` from position `index` on; arguments as for `Sampler`.

        `next` is called with `num_beams` rows for each row of `prompt`, and arrays in `cache` are
        repeated and reordered with them (first axis).

        Returns:
            int array [batch, length]; with `return_all_beams` a pair of [batch, num_beams, length]
            and float32 scores [batch, num_beams], best first.
        """
        prompt, mask, index, stop_token_ids = _prepare(next, prompt, mask, index, stop_token_ids)
        search = beam_search.keras_search if self.compat else beam_search.transformers_search
        sequences, scores = search(self, next, prompt, cache, int(index), mask, stop_token_ids)
        return (sequences, scores) if self.return_all_beams else sequences[:, 0]

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_beams": self.num_beams,
            "return_all_beams": self.return_all_beams,
            "length_penalty": self.length_penalty,
            "early_stopping": self.early_stopping,
            "compat": self.compat,
        }

    def _core_options(self) -> dict[str, Any]:
        return {"sampler": self._core_name, **self.get_config()}
