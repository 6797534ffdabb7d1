"""RMSprop."""

from bart_fast.optimizers.optimizer import Optimizer


class RMSprop(Optimizer):
    """RMSprop (Hinton, 2012) with plain momentum.

    Each step, for a gradient `g`: `v = rho v + (1 - rho) g^2` and
    `w -= learning_rate g / sqrt(v + epsilon)`. With `centered` the squared running mean of `g` is
    subtracted under the root; with momentum the weight moves by
    `m = momentum m + learning_rate g / sqrt(...)`.

    Args:
        learning_rate: float, schedule or function. Defaults to 0.001.
        rho: float. Decay rate of the mean of squared gradients. Defaults to 0.9.
        momentum: float from 0 to 1. Defaults to 0.0.
        epsilon: float above 0. Defaults to 1e-7.
        centered: bool. Defaults to False.
        **kwargs: see `Optimizer`.
    """

    _rule = "rmsprop"

    def __init__(
        self,
        learning_rate=0.001,
        rho=0.9,
        momentum=0.0,
        epsilon=1e-7,
        centered=False,
        weight_decay=None,
        **kwargs,
    ):
        super().__init__(learning_rate, weight_decay=weight_decay, **kwargs)
        self.rho = rho
        self.momentum = momentum
        self.epsilon = epsilon
        self.centered = centered
        self._check_constants()

    def _rule_config(self):
        return {
            "rho": self.rho,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "centered": self.centered,
        }
