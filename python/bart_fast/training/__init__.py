"""Training: the loop behind `fit` and `evaluate`, and how data becomes batches."""

from bart_fast.training.errors import NonFiniteLossError

__all__ = ["NonFiniteLossError"]
