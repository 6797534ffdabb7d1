"""Lion."""

from bart_fast.optimizers.optimizer import Optimizer


class Lion(Optimizer):
    """Lion (Chen et al., 2023): every weight moves by the learning rate, up or down.

    Each step, for a gradient `g`: `w -= learning_rate sign(beta_1 m + (1 - beta_1) g)`, then
    `m = beta_2 m + (1 - beta_2) g`. It keeps one number a weight, Adam two; rates are best three to
    ten times smaller than Adam's.

    Args:
        learning_rate: float, schedule or function. Defaults to 0.001.
        beta_1: float above 0, at most 1. Share of the running mean in the direction. Defaults to
            0.9.
        beta_2: float. Decay rate of the running mean of gradients. Defaults to 0.99.
        **kwargs: see `Optimizer`.
    """

    _rule = "lion"

    def __init__(self, learning_rate=0.001, beta_1=0.9, beta_2=0.99, weight_decay=None, **kwargs):
        super().__init__(learning_rate, weight_decay=weight_decay, **kwargs)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self._check_constants()

    def _rule_config(self):
        return {"beta_1": self.beta_1, "beta_2": self.beta_2}
