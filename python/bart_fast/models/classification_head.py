"""The head of a sequence classifier as an object that can be copied and pickled."""

from typing import Any

from bart_fast import _core


class ClassificationHead:
    """`W2 tanh(W1 x + b1) + b2`, with dropout before each product in training.

    Args:
        width: int. Features of the hidden states.
        hidden_dim: int. Inner features.
        num_classes: int. Scores.
        dropout: float.
        deviation: float. That of the normal distribution that weights are drawn from.
        seed: int, or `None` for zeros.
    """

    def __init__(
        self,
        width: int,
        hidden_dim: int,
        num_classes: int,
        dropout: float,
        deviation: float,
        seed: int | None,
    ):
        self._arguments = (width, hidden_dim, num_classes, dropout, deviation)
        self._core = _core.ClassificationHead(*self._arguments, seed)

    @property
    def core(self) -> _core.ClassificationHead:
        """The core's object."""
        return self._core

    def weights(self) -> dict[str, Any]:
        """Name -> float32 array of every parameter."""
        return {name: self._core.get_parameter(name) for name, _ in self._core.parameters()}

    def count_params(self) -> int:
        """The number of weights."""
        return sum(values.size for values in self.weights().values())

    def __getstate__(self) -> dict[str, Any]:
        return {"_arguments": self._arguments, "weights": self.weights()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._arguments = state["_arguments"]
        self._core = _core.ClassificationHead(*self._arguments, None)
        self._core.set_parameters(state["weights"])
