"""The base of all samplers: temperature, softmax, stop tokens and prompt masks."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from bart_fast._validation import argument_error, check_function, check_int, check_positive_float


class Sampler:
    """Chooses one next token after another.

    A subclass overrides `get_next_token(probabilities)`; everything else is done here. The
    built-in samplers run inside the core when a model generates; a subclass of your own is asked
    for each token from Python, which is slower.

    Args:
        temperature: float above 0. Logits are divided by it before the softmax: above 1 the
            choice is more varied, below 1 less. Defaults to 1.0.

    Call arguments:
        next: function `(prompt, cache, index) -> (logits, hidden_states, cache)`, in numpy.
            `logits` [batch, vocabulary] are those of the token at position `index`.
        prompt: int array [batch, length]. Its width is the longest answer.
        cache: anything; handed from one call of `next` to the following.
        index: int. The first position to fill.
        mask: bool array [batch, length], `True` where the prompt must stay. Defaults to nowhere.
        stop_token_ids: ids that end a row. The loop ends when every row has produced one.
        hidden_states: float array [batch, length, width], of the prompt; for samplers that compare
            them, as `ContrastiveSampler` does.
        model: accepted for keras-hub's signature, not used here.

    Example:

    ```python
    class NoSeven(bart_fast.samplers.Sampler):
        def get_next_token(self, probabilities):
            probabilities[:, 7] = 0.0
            return probabilities.argmax(axis=-1)

    bart_lm.compile(sampler=NoSeven())
    ```
    """

    def __init__(self, temperature: float = 1.0):
        self.temperature = check_positive_float(
            "temperature", temperature, hint="use `GreedySampler()` for the most probable token"
        )

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
        """Fills `prompt` from position `index` on. Returns int array [batch, length]."""
        prompt, mask, index, stop_token_ids = _prepare(next, prompt, mask, index, stop_token_ids)
        for _ in self._steps(next, prompt, cache, index, mask, stop_token_ids):
            pass
        return prompt

    def _steps(
        self, next: Any, prompt: np.ndarray, cache: Any, index: int, mask: Any, stop_token_ids: Any
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Fills `prompt` in place; after each position how many are filled, and `prompt`."""
        done = np.zeros(prompt.shape[0], dtype=bool)
        for position in range(int(index), prompt.shape[1]):
            if stop_token_ids is not None and done.all():
                break
            logits, _, cache = next(prompt, cache, position)
            chosen = np.asarray(self.get_next_token(self.compute_probabilities(logits)))
            given = mask[:, position]
            prompt[:, position] = np.where(given, prompt[:, position], chosen)
            if stop_token_ids is not None:
                done |= ~given & np.isin(prompt[:, position], list(stop_token_ids))
            yield position + 1, prompt

    def compute_probabilities(self, logits: Any) -> np.ndarray:
        """Softmax of `logits / temperature` in float32, shape unchanged."""
        scaled = np.asarray(logits, dtype=np.float32) / np.float32(self.temperature)
        scaled = scaled - scaled.max(axis=-1, keepdims=True)
        exponentials = np.exp(scaled)
        return exponentials / exponentials.sum(axis=-1, keepdims=True)

    def get_next_token(self, probabilities: np.ndarray) -> np.ndarray:
        """The next token of each row.

        Args:
            probabilities: float32 array [batch, vocabulary].

        Returns:
            int array [batch].
        """
        raise NotImplementedError(
            f"`{type(self).__name__}.get_next_token(probabilities)` must be overridden."
        )

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, as plain values."""
        return {"temperature": self.temperature}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Sampler":
        """A sampler from what `get_config()` returned."""
        return cls(**config)

    # Name and options for the core; `None` in a class that the core does not know.
    _core_name: str | None = None

    def _core_options(self) -> dict[str, Any]:
        return {"sampler": self._core_name, "temperature": self.temperature}


_OVERRIDABLE = (
    "__call__",
    "compute_probabilities",
    "get_next_token",
    "similarity",
    "_core_options",
)


def core_options(sampler: Any) -> dict[str, Any] | None:
    """Options that make the core sample as `sampler` does, or `None` if only Python can.

    A subclass of a built-in sampler that changes how tokens are chosen must be asked in Python;
    one that changes, say, only its constructor need not.
    """
    if not isinstance(sampler, Sampler):
        return None
    for known in type(sampler).__mro__:
        if known.__dict__.get("_core_name") is not None:
            break
    else:
        return None
    ours = type(sampler)
    if any(getattr(ours, name, None) is not getattr(known, name, None) for name in _OVERRIDABLE):
        return None
    return sampler._core_options()


def _prepare(
    next: Any, prompt: Any, mask: Any, index: Any, stop_token_ids: Any
) -> tuple[np.ndarray, np.ndarray, int, list[int] | None]:
    """The arguments of a sampler's call, checked: copies of `prompt` and `mask` as arrays of one
    shape [batch, length], the index, and the ids that end a row."""
    prompt = np.array(prompt)
    if prompt.ndim != 2 or prompt.dtype.kind not in "iu":
        raise ValueError(
            "`prompt` must be an integer array [batch, length]. "
            f"Received: dtype {prompt.dtype}, shape {prompt.shape}."
        )
    mask = np.zeros(prompt.shape, dtype=bool) if mask is None else np.array(mask, dtype=bool)
    if mask.shape != prompt.shape:
        raise ValueError(
            f"`mask` must have the shape of `prompt`, {prompt.shape}. Received: {mask.shape}."
        )
    check_function("next", next)
    if stop_token_ids is not None:
        if isinstance(stop_token_ids, str | bytes) or not isinstance(stop_token_ids, Iterable):
            raise argument_error("stop_token_ids", "must be ids or `None`", stop_token_ids)
        stop_token_ids = [check_int("stop_token_ids", each, 0) for each in stop_token_ids]
    return prompt, mask, check_int("index", index, 0), stop_token_ids
