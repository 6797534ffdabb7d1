"""Adafactor."""

from bart_fast.optimizers.optimizer import Optimizer


class Adafactor(Optimizer):
    """Adafactor (Shazeer and Stern, 2018), with the defaults and the arithmetic of Keras.

    The mean square of a matrix' gradient is kept as one number a row and one a column, so that the
    state is next to nothing; vectors keep one number a weight. Step `t` of a parameter `w`, whose
    mean square gradient is `v`, with the decay rate `1 - t^beta_2_decay`:
    `u = g / sqrt(v)`, `w -= rms(w) min(learning_rate, 1 / sqrt(t)) u / max(1, rms(u) /
    clip_threshold)`, where `rms(w)` is `epsilon_2` at least.

    A matrix of a model is factored as it stands in checkpoints. keras-hub stores the projections of
    attention by heads and factors each head for itself.

    Args:
        learning_rate: float, schedule or function. Defaults to 0.001.
        beta_2_decay: float. Defaults to -0.8.
        epsilon_1: float above 0, added to squared gradients. Defaults to 1e-30.
        epsilon_2: float above 0. The least size of a parameter that steps are measured by. Defaults
            to 0.001.
        clip_threshold: float above 0. Defaults to 1.0.
        relative_step: bool. For Keras' signature: its formula bounds the rate by `1 / sqrt(t)` in
            any case. Defaults to True.
        **kwargs: see `Optimizer`.
    """

    _rule = "adafactor"

    def __init__(
        self,
        learning_rate=0.001,
        beta_2_decay=-0.8,
        epsilon_1=1e-30,
        epsilon_2=1e-3,
        clip_threshold=1.0,
        relative_step=True,
        weight_decay=None,
        **kwargs,
    ):
        super().__init__(learning_rate, weight_decay=weight_decay, **kwargs)
        self.beta_2_decay = beta_2_decay
        self.epsilon_1 = epsilon_1
        self.epsilon_2 = epsilon_2
        self.clip_threshold = clip_threshold
        self.relative_step = relative_step
        self._check_constants()

    def _rule_config(self):
        return {
            "beta_2_decay": self.beta_2_decay,
            "epsilon_1": self.epsilon_1,
            "epsilon_2": self.epsilon_2,
            "clip_threshold": self.clip_threshold,
            "relative_step": self.relative_step,
        }
