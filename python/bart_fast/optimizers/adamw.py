"""AdamW."""

from bart_fast.optimizers.adam import Adam


class AdamW(Adam):
    """Adam with weight decay apart from the gradient (Loshchilov and Hutter, 2019).

    Args:
        learning_rate: float, schedule or function. Defaults to 0.001.
        weight_decay: float. Defaults to 0.004.
        beta_1: float. Defaults to 0.9.
        beta_2: float. Defaults to 0.999.
        epsilon: float above 0. Defaults to 1e-7.
        amsgrad: bool. Defaults to False.
        **kwargs: see `Optimizer`.

    Example:

    ```python
    optimizer = bart_fast.optimizers.AdamW(learning_rate=1e-3, weight_decay=0.01)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    model.compile(optimizer=optimizer)
    ```
    """

    def __init__(
        self,
        learning_rate=0.001,
        weight_decay=0.004,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-7,
        amsgrad=False,
        **kwargs,
    ):
        if weight_decay is None:
            raise ValueError("`weight_decay` must be a float; received: None\nhint: use Adam")
        super().__init__(
            learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            amsgrad=amsgrad,
            weight_decay=weight_decay,
            **kwargs,
        )
