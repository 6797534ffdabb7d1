"""Errors of training."""


class NonFiniteLossError(FloatingPointError, ValueError):
    """The loss or its gradient is NaN or infinite. The weights are those before that step."""
