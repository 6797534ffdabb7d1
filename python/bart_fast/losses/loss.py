"""What all losses share."""

import numpy as np

from bart_fast._validation import argument_error, check_numbers, check_text

REDUCTIONS = ("sum_over_batch_size", "mean", "sum", "mean_with_sample_weight")


class Loss:
    """A loss of targets and predictions, reduced to one number.

    Args:
        name: str.
        reduction: str. What the weighted sum of the losses is divided by:
            `"sum_over_batch_size"` or `"mean"`, their number, padded positions counted;
            `"mean_with_sample_weight"`, the sum of the weights; `"sum"`, nothing.
    """

    def __init__(self, name, reduction="sum_over_batch_size"):
        check_text("name", name)
        if reduction not in REDUCTIONS:
            raise ValueError(
                f"`reduction` must be one of {', '.join(map(repr, REDUCTIONS))}; "
                f"received: {reduction!r}"
            )
        self.name = name
        self.reduction = reduction

    def __call__(self, y_true, y_pred, sample_weight=None):
        """The loss of a batch.

        Args:
            y_true: int array [batch, length] (any leading shape).
            y_pred: float array [batch, length, vocabulary].
            sample_weight: float array [batch, length] or [batch]. Every position weighs 1 if None.

        Returns:
            float.
        """
        values = self.call(*check_predictions(y_true, y_pred))
        weights = broadcast_weights(sample_weight, values.shape)
        divisor = self.normalizer(values.size, float(weights.sum()))
        total = float((values * weights).sum())
        return total / divisor if divisor else 0.0

    def call(self, y_true, y_pred):
        """The loss of each position, float array of the shape of `y_true`."""
        raise NotImplementedError(f"{type(self).__name__} must override `call(y_true, y_pred)`")

    def normalizer(self, positions, weight_sum):
        """What the weighted sum of the losses is divided by.

        Args:
            positions: int. Positions of the batch, padding included.
            weight_sum: float. Sum of the sample weights.

        Returns:
            float.
        """
        if self.reduction == "sum":
            return 1.0
        if self.reduction == "mean_with_sample_weight":
            return float(weight_sum)
        return float(positions)

    def get_config(self):
        """dict. The constructor's arguments."""
        return {"name": self.name, "reduction": self.reduction}

    @classmethod
    def from_config(cls, config):
        """Makes the loss that `get_config` describes."""
        return cls(**config)


def broadcast_weights(sample_weight, shape):
    """Weights of every position: ones for None, a weight a row for rank 1.

    Args:
        sample_weight: array or None.
        shape: tuple of int. Shape of the positions.

    Returns:
        float32 array of `shape`.
    """
    if sample_weight is None:
        return np.ones(shape, np.float32)
    weights = check_numbers("sample_weight", sample_weight)
    if weights.ndim < len(shape):
        weights = weights.reshape(weights.shape + (1,) * (len(shape) - weights.ndim))
    try:
        return np.broadcast_to(weights, shape)
    except ValueError:
        rule = f"must have the shape {shape}, or one weight a row"
        raise argument_error("sample_weight", rule, f"shape {weights.shape}") from None


def check_predictions(y_true, y_pred):
    """Targets [batch, ...] of integers, and predictions float32 [batch, ..., vocabulary].

    Raises:
        ValueError: they are of another kind, or do not fit together.
    """
    targets, predictions = np.asarray(y_true), check_numbers("y_pred", y_pred)
    if targets.dtype.kind not in "iu":
        raise argument_error("y_true", "must be integers", y_true)
    if predictions.ndim == 0 or predictions.shape[:-1] != targets.shape:
        rule = f"must have the shape {targets.shape} of `y_true`, and one axis more"
        raise argument_error("y_pred", rule, f"shape {predictions.shape}")
    classes = predictions.shape[-1]
    if targets.size and not (targets.min() >= 0 and targets.max() < classes):
        raise argument_error("y_true", f"must be ids from 0 to {classes - 1}", targets)
    return targets, predictions
