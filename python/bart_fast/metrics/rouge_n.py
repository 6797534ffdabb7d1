"""ROUGE-N."""

from bart_fast._validation import argument_error, check_int
from bart_fast.metrics.rouge import Rouge


class RougeN(Rouge):
    """Share of n-grams that texts and references have in common, as in keras-hub.

    `result()` is a dict of `precision`, `recall` and `f1_score`, means over all pairs.

    Args:
        order: int from 1 to 9. Words of an n-gram. Defaults to 2.
        use_stemmer: bool. Whether words are compared by their stems (Porter's). Defaults to False.
        name: str. Defaults to `"rouge-n"`.
        dtype: None or `"float32"`.

    Example:

    ```python
    rouge = bart_fast.metrics.RougeN(order=2)
    rouge("the tiny little cat was found under the bed", "the cat was found")["f1_score"]
    ```
    """

    def __init__(self, order=2, use_stemmer=False, name="rouge-n", dtype=None):
        if check_int("order", order, 1) > 9:
            raise argument_error("order", "must be from 1 to 9", order)
        self.order = order
        super().__init__(f"rouge{order}", use_stemmer, name, dtype)

    def get_config(self):
        return {**super().get_config(), "order": self.order}
