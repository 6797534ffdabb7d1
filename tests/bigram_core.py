"""A stand-in for `_core.Model` that learns: logits of a token are a row of a table."""

from types import SimpleNamespace

import numpy as np

from bart_fast.training.fit import TrainingMixin

TABLE = "shared.weight"


class BigramCore:
    """Has what training uses of `_core.Model`; keeps every call's keyword arguments."""

    def __init__(self, table):
        self.table = np.array(table, np.float32)
        self.calls = []
        self.batches = []
        # Steps, counted from 1, whose loss is infinite.
        self.broken_steps = ()

    def parameters(self):
        return [(TABLE, list(self.table.shape))]

    def get_parameter(self, name):
        assert name == TABLE
        return self.table.copy()

    def set_parameters(self, values):
        self.table = np.array(values[TABLE], np.float32)

    def trainable(self):
        return [name for name, _ in self.parameters()]

    def check_trainable(self):
        pass

    def put_averages(self, optimizer, exchange=False):
        state = optimizer.state()
        average = state[f"{TABLE}/average"].reshape(self.table.shape)
        if exchange:
            optimizer.set_state({**state, f"{TABLE}/average": self.table.reshape(-1)})
        self.table = average.copy()

    def train_step(self, optimizer, *arrays, learning_rate, seed, **settings):
        self.calls.append({"learning_rate": learning_rate, "seed": seed})
        result, gradient = self._pass(*arrays, **settings)
        if len(self.calls) in self.broken_steps:
            result["loss"] = np.inf
        if np.isfinite(result["loss"]):
            values, result["gradient_norm"], result["applied"] = optimizer.apply(
                {TABLE: self.table}, {TABLE: gradient}, learning_rate
            )
            if result["applied"]:
                self.table = values[TABLE]
        return result

    def evaluate_step(self, *arrays, **settings):
        return self._pass(*arrays, **settings)[0]

    def _pass(
        self,
        encoder_ids,
        encoder_mask,
        ids,
        mask,
        targets,
        weights,
        *,
        normalizer,
        every_position=False,
        detail="sums",
    ):
        assert encoder_ids.shape == encoder_mask.shape
        assert ids.shape == mask.shape == targets.shape
        assert encoder_mask.dtype == mask.dtype == bool
        self.batches.append((encoder_ids, ids, targets))
        if weights is None:
            weights = np.ones(ids.shape, np.float32)
        assert weights.dtype == np.float32
        logits = self.table[ids].astype(np.float64)
        shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
        probabilities = shifted / shifted.sum(axis=-1, keepdims=True)
        picked = np.take_along_axis(probabilities, targets[..., None].astype(int), -1)[..., 0]
        total = float((weights * -np.log(picked)).sum())
        slope = probabilities.copy()
        slope[(*np.indices(targets.shape), targets)] -= 1
        slope *= (weights / normalizer)[..., None]
        gradient = np.zeros(self.table.shape)
        np.add.at(gradient, ids.reshape(-1), slope.reshape(-1, slope.shape[-1]))
        wanted = (weights != 0) | every_position
        result = {
            "nll_of_rows": -np.log(picked)[wanted].astype(np.float32),
            "logits": logits[wanted].astype(np.float32),
            "nll_sum": float(-np.log(picked)[wanted].sum()),
            "correct": int((logits.argmax(-1) == targets)[wanted].sum()),
            "loss": total / normalizer,
            "weighted_nll_sum": total,
            "weight_sum": float(weights.sum()),
            "correct_weight_sum": float((weights * (logits.argmax(-1) == targets)).sum()),
            "tokens": int(wanted.sum()),
            "gradient_norm": None,
            "applied": False,
        }
        told = {"sums": ("nll_of_rows", "logits"), "rows": ("logits",), "logits": ()}[detail]
        for name in told:
            del result[name]
        return result, gradient.astype(np.float32)


class LetterPreprocessor:
    """Letters as ids 3..28, with `<s>` 0 and `</s>` 2, in the form of our preprocessor."""

    encoder_sequence_length = 9
    decoder_sequence_length = 8

    def _fit_rows(self, x, encoder_width, decoder_width):
        sources = [[0, *self._ids(text)[: encoder_width - 2], 2] for text in x["encoder_text"]]
        targets = [[2, 0, *self._ids(text)[: decoder_width - 2], 2] for text in x["decoder_text"]]
        return sources, targets, True

    def padded(self, x):
        """What Keras' preprocessor gives: x, y and weights padded to the full length."""
        sources, targets, _ = self._fit_rows(
            x, self.encoder_sequence_length, self.decoder_sequence_length
        )
        encoder_ids, encoder_mask = self._pad(sources, self.encoder_sequence_length)
        ids, mask = self._pad(targets, self.decoder_sequence_length + 1)
        arrays = {
            "encoder_token_ids": encoder_ids,
            "encoder_padding_mask": encoder_mask,
            "decoder_token_ids": ids[:, :-1],
            "decoder_padding_mask": mask[:, :-1],
        }
        return arrays, ids[:, 1:], mask[:, 1:]

    @staticmethod
    def _ids(text):
        return [ord(letter) - ord("a") + 3 for letter in text]

    @staticmethod
    def _pad(rows, width):
        ids = np.array([row + [1] * (width - len(row)) for row in rows])
        return ids, np.array([[i < len(row) for i in range(width)] for row in rows])


class BigramModel(TrainingMixin):
    """A model that can be trained and nothing else."""

    def __init__(self, table, preprocessor=None, seed=7, **compile_arguments):
        self.backbone = SimpleNamespace(
            _model=BigramCore(table), max_sequence_length=16, vocabulary_size=len(table)
        )
        self.preprocessor = preprocessor
        self._seed = seed
        self.compile(**compile_arguments)

    @property
    def core(self):
        return self.backbone._model

    def save_to_preset(self, path):
        self.saved = [*getattr(self, "saved", []), str(path)]


def token_arrays(ids):
    """The four arrays of a model whose encoder does not matter."""
    ids = np.asarray(ids)
    return {
        "encoder_token_ids": ids,
        "encoder_padding_mask": np.ones(ids.shape, bool),
        "decoder_token_ids": ids,
        "decoder_padding_mask": np.ones(ids.shape, bool),
    }
