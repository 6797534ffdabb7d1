"""What is measured: a row of the table for each figure, with its limit and what it shall reach."""

from dataclasses import dataclass, replace

import numpy as np

MIB = 2**20
LARGE = "bart-large"
SHIPPED = "bart_tidy_en"
TINY = "tiny"


@dataclass(frozen=True)
class Figure:
    """A row of the table.

    Attributes:
        title: what was measured.
        key: where its samples (seconds or bytes) lie in the result of the scenario.
        unit: "ms", "us", "s", "tokens/s", "MiB" or "x".
        limit: the bound that `limits.py` computes, by its name; `None`: there is none.
        most: how many times the limit it may take.
        beyond: how many bytes it may take beyond the limit.
        at_most: the largest sample that is allowed, whatever the machine.
        faster: how many times the best peer must take of ours.
        against: the peers that `faster` is about; empty: all.
    """

    title: str
    key: str
    unit: str
    limit: str | None = None
    most: float | None = None
    beyond: float | None = None
    at_most: float | None = None
    faster: float | None = None
    against: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scenario:
    """A measurement that has a process of its own.

    Attributes:
        name: by which `--only` chooses it.
        model: the name in `SIZES`.
        precision: of the weights.
        task: the function of `worker.py`.
        lengths: tokens of each source.
        new_tokens: tokens that are generated; for training, tokens of a target.
        figures: rows of the table.
        beams, length_penalty, no_repeat: settings of a beam search.
        dropout: whether training applies it.
        quick: whether `--quick` measures it.
    """

    name: str
    model: str
    precision: str
    task: str
    lengths: tuple[int, ...]
    new_tokens: int
    figures: tuple[Figure, ...]
    beams: int = 1
    length_penalty: float = 2.0
    no_repeat: int = 3
    dropout: bool = False
    quick: bool = True

    @property
    def bart_pass(self) -> str:
        """The method that an engine needs."""
        methods = {"encoder": "encode", "start": "greedy", "training": "train", "ragged": "train"}
        return methods.get(self.task, self.task)


def _mixed_lengths(rows: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng(64).integers(32, 225, rows).tolist())


def _one_row(model: str, precision: str, title: str, **target: float) -> Scenario:
    name = {LARGE: "large-", SHIPPED: "tidy-"}.get(model, "") + f"greedy-{precision}"
    unit, limit = ("us", None) if model == SHIPPED else ("ms", "step")
    source = 32 if model == SHIPPED else 64
    figure = Figure(f"{title}, a token", "step", unit, limit, **target)
    return Scenario(name, model, precision, "greedy", (source,), 64, (figure,))


def _rows(precision: str, model: str, **targets: dict[str, float]) -> Scenario:
    title = f"8 rows, source 128, {precision}"
    step = Figure(f"{title}, a step", "step", "ms", "step", **targets.get("step", {}))
    whole = Figure(f"{title}, 64 new", "whole", "tokens/s", "whole", **targets.get("whole", {}))
    return Scenario(f"rows8-{precision}", model, precision, "greedy", (128,) * 8, 64, (step, whole))


def _encoder(precision: str, model: str, rows: int, length: int, **target: float) -> Scenario:
    figure = Figure(f"encoder {rows}x{length}, {precision}", "seconds", "ms", "encoder", **target)
    name = f"encoder-{rows}x{length}-{precision}"
    return Scenario(name, model, precision, "encoder", (length,) * rows, 0, (figure,))


def _start(precision: str, model: str, **targets: dict[str, float]) -> Scenario:
    title = f"{precision}, process start to 8 tokens"
    figures = (
        Figure(title, "start", "s", **targets.get("start", {})),
        Figure(
            f"{precision}, resident after load",
            "loaded",
            "MiB",
            "weights",
            **targets.get("loaded", {}),
        ),
        Figure(f"{precision}, resident after 8 tokens", "generated", "MiB", "weights"),
        Figure(f"{precision}, most resident", "peak", "MiB", "weights"),
    )
    return Scenario(f"start-{precision}", model, precision, "start", (64,), 8, figures)


def _training(dropout: bool, model: str, precision: str = "float32") -> Scenario:
    suffix = ", dropout 0.1" if dropout else ""
    title = f"training step, 4 x (64 + 64), Adam, {precision}{suffix}"
    # The limit is that of products in float32, three passes at their peak, for every precision.
    most = 1.6 if precision == "float32" and not dropout else None
    figures = (
        Figure(title, "step", "ms", "training", most, faster=1.25 if most else None),
        Figure(
            f"{title}, most resident", "peak", "MiB", faster=1 if most else None, against=("torch",)
        ),
    )
    name = "training" + ("-dropout" if dropout else "")
    if precision != "float32":
        name += f"-{precision}"
    return Scenario(
        name,
        model,
        precision,
        "training",
        (64,) * 4,
        64,
        figures,
        dropout=dropout,
        quick=not dropout,
    )


def _ragged_training(model: str) -> Scenario:
    title = "training step, 8 x (8 to 128), Adam, float32"
    figures = (
        Figure(title, "step", "ms"),
        Figure(f"{title}, of its real tokens' share", "share", "x", at_most=1.15),
    )
    lengths = tuple(np.linspace(8, 128, 8).astype(int).tolist())
    return Scenario(
        "training-ragged", model, "float32", "ragged", lengths, 128, figures, quick=False
    )


def scenarios(model: str = "bart-base") -> list[Scenario]:
    """All of them, for a model of that size; other models are measured beside bart-base."""
    greedy = "greedy, 1 row, source 64"
    beams = "4 beams, source 512, 128 new, int8"
    mixed = _mixed_lengths(64)
    rows64 = Figure(
        "64 rows, 32 to 224 tokens, 64 new, int8", "whole", "tokens/s", "whole", 1 / 0.6, faster=2
    )
    found = [
        _one_row(model, "int8", f"{greedy}, int8", most=1.35, faster=2),
        _one_row(model, "bfloat16", f"{greedy}, bfloat16", most=1.3),
        # The head is screened, so that not all of the limit's bytes are read.
        _one_row(model, "float32", f"{greedy}, float32", most=0.85, faster=1),
        replace(
            _one_row(model, "float32", f"{greedy}, float32, with log probabilities", most=1.15),
            name="scored-float32",
            task="scored",
        ),
        _rows("int8", model, step={"most": 2.2}, whole={"faster": 3}),
        _rows("float32", model),
        Scenario(
            "beams-int8",
            model,
            "int8",
            "beams",
            (512,),
            128,
            (
                Figure(f"{beams}, a step", "step", "ms", "step", 2),
                Figure(beams, "whole", "s", faster=3),
            ),
            beams=4,
        ),
        Scenario("rows64-int8", model, "int8", "greedy", mixed, 64, (rows64,)),
        _encoder("float32", model, 1, 512, most=1 / 0.8, faster=1),
        _encoder("float32", model, 8, 128, most=1 / 0.8, faster=1),
        _encoder("int8", model, 1, 512, most=1 / 0.6, faster=1.5),
        _encoder("int8", model, 8, 128, most=1 / 0.6, faster=1.5),
        _start(
            "int8",
            model,
            start={"faster": 1 / 0.6, "against": ("ctranslate2",)},
            loaded={"beyond": 40 * MIB, "faster": 1, "against": ("ctranslate2",)},
        ),
        _start("float32", model),
        _training(False, model),
        _training(True, model),
        _training(False, model, "mixed_bfloat16"),
        _ragged_training(model),
    ]
    if model == "bart-base":
        found.append(_one_row(LARGE, "int8", f"bart-large, {greedy}, int8", most=1.35, faster=1.7))
        shipped = "bart_tidy_en, 1 row, source 32"
        found.append(_one_row(SHIPPED, "int8", f"{shipped}, int8", at_most=150e-6))
        found.append(_one_row(SHIPPED, "float32", f"{shipped}, float32"))
    return found if model != TINY else [_shrunk(each) for each in found]


def _shrunk(scenario: Scenario) -> Scenario:
    """The same for a model that reads few tokens."""
    lengths = tuple(1 + length // 12 for length in scenario.lengths)
    return replace(scenario, lengths=lengths, new_tokens=2 + scenario.new_tokens // 12)
