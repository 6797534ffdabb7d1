"""`evaluate_generation()`: generated texts beside references."""

from typing import Any

from bart_fast._validation import argument_error
from bart_fast.training import generated_texts
from bart_fast.training.arguments import check_verbose
from bart_fast.training.progress import ProgressBar


class GenerationEvaluationMixin:
    """Compares what a model generates with what it should, for a model with `generate()`."""

    def evaluate_generation(
        self,
        x: Any,
        y: Any = None,
        *,
        metrics: Any = generated_texts.DEFAULT_METRICS,
        batch_size: int = 32,
        verbose: Any = "auto",
        **settings: Any,
    ) -> dict[str, float]:
        """Generates an answer to each text and compares it with its reference.

        Unlike `evaluate()`, where each token is predicted from the true ones before it, this is
        what users see. It generates as `generate()` does: with the sampler of `compile()`, or by
        settings.

        Args:
            x: dict of `encoder_text`, the sources, and `decoder_text`, the references, as for
                `fit()`; or sources alone, with the references in `y`; or an iterable of such
                batches.
            y: list of str. The references.
            metrics: names (`"rouge1"` to `"rouge9"`, `"rougeL"`, `"exact_match"`) and metrics of
                texts: `RougeN`, `RougeL`, `ExactMatch` or one's own `TextMetric`. ROUGE wants
                `pip install "bart-fast[metrics]"`. Defaults to ROUGE-1, -2, -L and exact match.
            batch_size: int. Texts answered at a time. Defaults to 32.
            verbose: 0 silent, 1 or `"auto"` (default) a progress bar, 2 one line.
            **settings: those of `generate()`, such as `num_beams`, `max_length` or `seed`.

        Returns:
            dict of str to float. Means over all texts; of ROUGE the F1 score.

        Raises:
            ValueError: an argument is missing or not allowed.
            ImportError: a metric needs a package that is not installed.

        Example:

        ```python
        pairs = {"encoder_text": ["i has two apple"], "decoder_text": ["I have two apples."]}
        model.evaluate_generation(pairs, metrics=["exact_match"], num_beams=4)
        ```
        """
        measured = generated_texts.text_metrics(metrics)
        several = settings.get("num_return_sequences")
        if several not in (None, 1) or settings.get("return_dict_in_generate"):
            raise argument_error("settings", "must ask for one answer a text", settings)
        for metric in measured:
            metric.reset_state()
        known = generated_texts.count_batches(x, batch_size)
        bar, done = ProgressBar(known, check_verbose(verbose)), 0
        try:
            for sources, references in generated_texts.batches_of_pairs(x, y, batch_size):
                answers = self.generate(sources, **settings)
                for metric in measured:
                    metric.update_state(references, [_one(answer) for answer in answers])
                done += 1
                bar.update(done, generated_texts.results(measured))
            if not done:
                raise argument_error("x", "must hold at least one text", "none")
            bar.update(done, generated_texts.results(measured), finalize=True)
        finally:
            bar.close()
        return generated_texts.results(measured)


def _one(answer: Any) -> str:
    """The best of an answer, where a sampler returns all its beams."""
    return answer if isinstance(answer, str) else answer[0]
