"""ROUGE-L."""

from bart_fast.metrics.rouge import Rouge


class RougeL(Rouge):
    """Length of the longest common subsequence of words of texts and references, as in keras-hub.

    `result()` is a dict of `precision`, `recall` and `f1_score`, means over all pairs.

    Args:
        use_stemmer: bool. Whether words are compared by their stems (Porter's). Defaults to False.
        name: str. Defaults to `"rouge-l"`.
        dtype: None or `"float32"`.
    """

    def __init__(self, use_stemmer=False, name="rouge-l", dtype=None):
        super().__init__("rougeL", use_stemmer, name, dtype)
