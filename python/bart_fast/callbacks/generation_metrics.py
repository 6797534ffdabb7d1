"""Generated texts beside references, while a model is trained."""

from bart_fast._validation import check_positive_int, check_text
from bart_fast.callbacks.callback import Callback
from bart_fast.training import generated_texts


class GenerationMetrics(Callback):
    """Adds the values of `evaluate_generation()` to those of each epoch.

    Callbacks behind it see them, so that `EarlyStopping(monitor="val_rougeL", mode="max")` and
    `ModelCheckpoint` can go by what the model writes.

    Args:
        x, y: sources and references, as for `evaluate_generation()`; no iterator, since they are
            read every time.
        metrics: names and metrics of texts. Defaults to ROUGE-1, -2, -L and exact match.
        every: int. Every how many epochs. Defaults to 1.
        prefix: str. What names begin with. Defaults to `"val_"`.
        batch_size: int. Texts answered at a time. Defaults to 32.
        **settings: those of `generate()`.

    Example:

    ```python
    watched = bart_fast.callbacks.GenerationMetrics(x, metrics=["exact_match"], num_beams=2)
    model.fit(x, epochs=3, callbacks=[watched])
    ```
    """

    _kept = ()

    def __init__(
        self,
        x,
        y=None,
        *,
        metrics=generated_texts.DEFAULT_METRICS,
        every=1,
        prefix="val_",
        batch_size=32,
        **settings,
    ):
        super().__init__()
        self.x, self.y, self.settings = x, y, settings
        self.metrics = generated_texts.text_metrics(metrics)
        self.every = check_positive_int("every", every)
        self.prefix = check_text("prefix", prefix)
        self.batch_size = check_positive_int("batch_size", batch_size)

    def on_epoch_end(self, epoch, logs=None):
        if logs is None or (epoch + 1) % self.every:
            return
        values = self.model.evaluate_generation(
            self.x,
            self.y,
            metrics=self.metrics,
            batch_size=self.batch_size,
            verbose=0,
            **self.settings,
        )
        logs.update({f"{self.prefix}{name}": value for name, value in values.items()})
