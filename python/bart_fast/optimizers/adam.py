"""Adam."""

from bart_fast.optimizers.optimizer import Optimizer


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2014), with the defaults and the arithmetic of Keras.

    Each step `t`, for a gradient `g`:
    `m += (g - m) (1 - beta_1)`, `v += (g^2 - v) (1 - beta_2)`,
    `w -= learning_rate sqrt(1 - beta_2^t) / (1 - beta_1^t) * m / (sqrt(v) + epsilon)`.

    Args:
        learning_rate: float, schedule or function. Defaults to 0.001.
        beta_1: float. Decay rate of the mean of gradients. Defaults to 0.9.
        beta_2: float. Decay rate of the mean of squared gradients. Defaults to 0.999.
        epsilon: float above 0. Defaults to 1e-7.
        amsgrad: bool. Use the largest `v` so far (Reddi et al., 2018). Defaults to False.
        **kwargs: see `Optimizer`.

    Example:

    ```python
    model.compile(optimizer=bart_fast.optimizers.Adam(learning_rate=1e-3, global_clipnorm=1.0))
    ```
    """

    _rule = "adam"

    def __init__(
        self,
        learning_rate=0.001,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-7,
        amsgrad=False,
        weight_decay=None,
        **kwargs,
    ):
        super().__init__(learning_rate, weight_decay=weight_decay, **kwargs)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.amsgrad = amsgrad
        self._check_constants()

    def _rule_config(self):
        return {
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "amsgrad": self.amsgrad,
        }
