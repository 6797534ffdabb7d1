"""Gradient descent."""

from bart_fast.optimizers.optimizer import Optimizer


class SGD(Optimizer):
    """Gradient descent, with momentum if asked for.

    Without momentum `w -= learning_rate g`. With momentum `m = momentum m - learning_rate g` and
    `w += m`, or with `nesterov` `w += momentum m - learning_rate g`.

    Args:
        learning_rate: float, schedule or function. Defaults to 0.01.
        momentum: float from 0 to 1. Defaults to 0.0.
        nesterov: bool. Defaults to False.
        **kwargs: see `Optimizer`.
    """

    _rule = "sgd"

    def __init__(
        self, learning_rate=0.01, momentum=0.0, nesterov=False, weight_decay=None, **kwargs
    ):
        super().__init__(learning_rate, weight_decay=weight_decay, **kwargs)
        self.momentum = momentum
        self.nesterov = nesterov
        self._check_constants()

    def _rule_config(self):
        return {"momentum": self.momentum, "nesterov": self.nesterov}
