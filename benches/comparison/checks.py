"""Engines must compute the same before anything is timed."""

from typing import Any

import numpy as np

from comparison.inputs import make_pairs, make_rows

CHECKED_STEPS = 3
# Sums of thousands of products in another order, over twelve layers.
ENCODER_TOLERANCE = 1e-3
FIRST_LOSS_TOLERANCE = 1e-4
# Adam turns the rounding of gradients that are nearly zero into whole steps.
LATER_LOSS_TOLERANCE = 1e-3
BEAMS, LENGTH_PENALTY, NO_REPEAT = 4, 2.0, 3


class Unequal(Exception):
    """A result that must not be timed."""


def compute(engine: Any, spec: dict[str, Any]) -> dict[str, Any]:
    """Everything that engines are compared by, in float32, into the file `output`."""
    vocabulary, longest = spec["vocabulary"], spec["longest"]
    new_tokens = min(64, longest - 2)
    [source] = make_rows(vocabulary, (longest,))
    ragged = make_rows(vocabulary, tuple(max(1, longest * i // 6) for i in (6, 2, 5, 1)))
    found: dict[str, Any] = {}
    if "encode" in engine.passes:
        found["encoded"] = engine.encode([source])[0]
    if "greedy" in engine.passes:
        found["greedy ids"] = engine.greedy([source], new_tokens)
        found["greedy ids of rows of many lengths"] = engine.greedy(ragged, new_tokens // 2)
    if "beams" in engine.passes:
        found["ids of beams"] = engine.beams([source], new_tokens, BEAMS, LENGTH_PENALTY, NO_REPEAT)
    if hasattr(engine, "core"):
        _check_ours(engine, source, found, vocabulary)
    if "train" in engine.passes:
        pairs = make_pairs(vocabulary, 3, *spec["pair"])
        found["losses"] = [engine.train(pairs) for _ in range(CHECKED_STEPS)]
    np.savez(spec["output"], **found)
    return {}


def _check_ours(engine: Any, source: np.ndarray, found: dict[str, Any], vocabulary: int) -> None:
    """Checks that need no other engine: decoding against whole sequences, kernels against none."""
    from bart_fast import _core

    [ids] = found["greedy ids"]
    answer = np.array([[2, *ids[:-1]]])
    scores = engine.logits(source[None], answer)
    expect(scores.argmax(-1)[0].tolist() == ids, "greedy ids are not the best tokens")
    pairs = make_pairs(vocabulary, 2, 5, 4)
    loss = engine.evaluate(pairs)
    _core.set_portable(True)
    difference = np.abs(engine.encode([source])[0] - found["encoded"]).max()
    portable_loss = engine.evaluate(pairs)
    _core.set_portable(False)
    expect(difference < 1e-3, f"the encoder differs by {difference} from candle's operations")
    difference = abs(portable_loss - loss)
    expect(difference < 1e-4, f"the loss differs by {difference} from candle's operations")


def expect(holds: bool, message: str) -> None:
    """Stops with `message` unless `holds`: wrong results are not timed."""
    if not holds:
        raise Unequal(message)


def compare(ours: dict[str, Any], peer: dict[str, Any]) -> list[str]:
    """Stops unless the results of both engines are equal; says what was compared."""
    notes = []
    for name, values in peer.items():
        if "ids" in name:
            expect(np.array_equal(ours[name], values), f"the {name} differ")
            notes.append(name)
    pairs = {
        "encoder outputs": ("encoded", slice(None), ENCODER_TOLERANCE),
        "first losses": ("losses", slice(1), FIRST_LOSS_TOLERANCE),
        "later losses": ("losses", slice(1, None), LATER_LOSS_TOLERANCE),
    }
    for title, (name, part, tolerance) in pairs.items():
        if name in peer:
            difference = float(np.abs(ours[name][part] - peer[name][part]).max())
            expect(difference < tolerance, f"the {title} differ by {difference} > {tolerance}")
            notes.append(f"{title} ({difference:.1e})")
    return notes
