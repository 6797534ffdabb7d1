"""What the kinds of ROUGE share."""

from bart_fast._validation import check_flag
from bart_fast.metrics.text_metric import TextMetric


class Rouge(TextMetric):
    """ROUGE (Lin, 2004) as the package rouge-score computes it, which must be installed:
    `pip install "bart-fast[metrics]"`.

    Args:
        variant: str. `"rouge1"` to `"rouge9"`, or `"rougeL"`.
        use_stemmer: bool. Whether words are compared by their stems (Porter's). Defaults to False.
        name: str.
        dtype: None or `"float32"`.

    Raises:
        ImportError: rouge-score is not installed.
    """

    direction = "up"
    _keys = ("precision", "recall", "f1_score")

    def __init__(self, variant, use_stemmer=False, name="rouge", dtype=None):
        super().__init__(name, dtype)
        self.variant = variant
        self.use_stemmer = check_flag("use_stemmer", use_stemmer)
        try:
            from rouge_score.rouge_scorer import RougeScorer
        except ImportError:
            raise ImportError(
                f"{type(self).__name__} needs rouge-score, and it is not installed.\n"
                'hint: pip install "bart-fast[metrics]", or pip install rouge-score'
            ) from None
        self._scorer = RougeScorer([variant], use_stemmer=use_stemmer)

    def scores(self, reference, text):
        score = self._scorer.score(reference, text)[self.variant]
        return {
            "precision": score.precision,
            "recall": score.recall,
            "f1_score": score.fmeasure,
        }

    def get_config(self):
        return {**super().get_config(), "use_stemmer": self.use_stemmer}
