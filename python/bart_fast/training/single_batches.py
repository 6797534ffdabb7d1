"""Steps of one batch, and the weights as a list."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from bart_fast import _core
from bart_fast._validation import argument_error, check_flag
from bart_fast.training.arguments import check_class_weight
from bart_fast.training.data import unpack_batch
from bart_fast.training.errors import NonFiniteLossError
from bart_fast.training.steps import StepsMixin


class SingleBatchesMixin(StepsMixin):
    """Training, evaluation and prediction of one batch."""

    def train_on_batch(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        class_weight: Any = None,
        return_dict: bool = False,
    ) -> Any:
        """One training step.

        Args:
            x, y, sample_weight, class_weight: as for `fit`; all examples are one batch.
            return_dict: bool. Return names with the values. Defaults to False.

        Returns:
            list of float, `[loss, accuracy]` of the batch before the step; or dict of str to float.

        Raises:
            NonFiniteLossError: the loss or its gradient is NaN or infinite; nothing was changed.
        """
        self._check_compiled("train_on_batch")
        self._check_trainable()
        check_flag("return_dict", return_dict)
        class_weight = check_class_weight(class_weight, sample_weight)
        self.reset_metrics()
        batch = self._batch_maker()(*unpack_batch((x, y, sample_weight)))
        if class_weight is not None:
            batch = batch.weighted_by_class(class_weight)
        failure = self._train_batch(batch)
        if failure is not None:
            raise NonFiniteLossError(failure)
        return self._returned(self._logs(), return_dict)

    def test_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False
    ) -> Any:
        """Loss and metrics of one batch; see `evaluate`."""
        self._check_compiled("test_on_batch")
        check_flag("return_dict", return_dict)
        self.reset_metrics()
        self._evaluate_batch(self._batch_maker()(*unpack_batch((x, y, sample_weight))))
        return self._returned(self._logs(), return_dict)

    def predict_on_batch(self, x: Any) -> np.ndarray:
        """What `predict` gives for `x`, computed as one batch.

        Args:
            x: as for `predict`, but no iterable of batches.

        Returns:
            float32 array, as `predict` returns it.
        """
        raise NotImplementedError  # Each kind of model has its own.

    def get_weights(self) -> list[np.ndarray]:
        """All weights, copied as float32, in the order of the model's parameters."""
        return [_values(part, name) for part, name in self._trained()]

    def set_weights(self, weights: Iterable[np.ndarray]) -> None:
        """Replaces all weights by what `get_weights` returned, in the precision of the model.

        Raises:
            ValueError: too few, too many or misshapen arrays.
        """
        parameters = self._trained()
        if not isinstance(weights, Iterable):
            raise argument_error("weights", f"must be a list of {len(parameters)} arrays", weights)
        weights = list(weights)
        if len(weights) != len(parameters):
            raise argument_error(
                "weights", f"must be a list of {len(parameters)} arrays", f"{len(weights)} arrays"
            )
        pairs = list(zip(parameters, weights, strict=True))
        for part in dict.fromkeys(part for part, _ in parameters):
            values = {name: each for (owner, name), each in pairs if owner is part}
            if isinstance(part, _core.Model) and part.dtype == "int8":
                # What is equal stays: rounding it anew could move it.
                values = {
                    name: each
                    for name, each in values.items()
                    if not np.array_equal(each, _values(part, name))
                }
            part.set_parameters(values)


def _values(part: Any, name: str) -> np.ndarray:
    """A copy of a parameter, without what LoRA adds to it."""
    base = (True,) if isinstance(part, _core.Model) else ()
    return part.get_parameter(name, *base)
