"""The kernel by which a card chooses tokens, beside plain numpy."""

import ctypes

import numpy as np
import pytest
from cuda_kernels import normal, philox

NONE = 0xFFFFFFFF
POINTERS = (
    *("from_", "given", "positions", "ends"),
    *("penalised", "ruled_out", "grown", "keys"),
)


class Choices(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in POINTERS),
        *((name, ctypes.c_float) for name in ("penalty", "temperature", "top_p", "min_p")),
        *((name, ctypes.c_int) for name in ("top_k", "limit", "in_turn", "log_probability")),
    ]


CHOSEN = np.dtype(
    [("token", np.uint32), ("best", "f4"), ("log_probability", "f4"), ("broken", np.uint32)]
)
# What leaves all tokens as they are.
PLAIN = {"penalty": 1.0, "temperature": 1.0, "top_p": 1.0, "min_p": 0.0, "top_k": 0, "in_turn": 0}


def choose(launch, scores, limit, rows, settings, filled_up=0, threads=64):
    """What is chosen after each of `rows` (dictionaries), and the tokens that a next step reads."""
    lists = {name: [] for name in ("penalised", "ruled_out", "grown")}
    ends = []
    for row in rows:
        for name, values in lists.items():
            values.extend(row.get(name, []))
        ends.append([len(values) for values in lists.values()])
    grown = [(token, np.float32(part).view(np.uint32)) for token, part in lists["grown"]]
    arrays = {
        "from_": [row.get("from_", i) for i, row in enumerate(rows)],
        "given": [row.get("given", NONE) for row in rows],
        "positions": [row.get("position", 0) for row in rows],
        "ends": ends,
        "penalised": lists["penalised"],
        "ruled_out": lists["ruled_out"],
        "grown": grown,
        "keys": [row["key"] for row in rows] if "key" in rows[0] else None,
    }
    arrays = {k: v if v is None else np.array(v, np.uint32) for k, v in arrays.items()}
    pointers = {k: v if v is None else v.ctypes.data for k, v in arrays.items()}
    how = Choices(limit=limit, log_probability=1, **pointers, **(PLAIN | settings))
    chosen, tokens = np.zeros(len(rows), CHOSEN), np.zeros(filled_up, np.uint32)
    launch(
        "choose_tokens",
        (len(rows),),
        threads,
        96 + 2 * threads,
        *(scores.copy(), scores.shape[1], how, len(rows), chosen),
        *(tokens if filled_up else None, filled_up),
    )
    return chosen, tokens.tolist()


def drawn(scores, settings, key, position):
    """The token that is drawn, its log probability, and how near the draw was to another's."""
    how = PLAIN | settings
    scores = scores.astype(np.float64)
    weights = np.exp((scores - scores.max()) / how["temperature"])
    order = np.lexsort((np.arange(len(scores)), -scores))
    kept = np.ones(len(scores), bool)
    if how["top_k"]:
        last = scores[order[min(how["top_k"], len(order)) - 1]]
        kept[order[how["top_k"] :]] = False
        if how["in_turn"]:
            kept = scores >= last
    if how["top_p"] < 1:
        left = np.where(kept, weights, 0) if how["in_turn"] else weights
        before = np.cumsum(left[order]) - left[order]
        limit = np.float32(how["top_p"]) * left.sum()
        out = before >= limit if how["in_turn"] else before > limit
        kept[order[1:][out[1:]]] = False
    weights = np.where(kept & (weights >= how["min_p"]), weights, 0)
    words = philox(key, np.array([[0, 0, position, 0]]))[0].tolist()
    target = (words[0] << 21 | words[1] >> 11) * 2.0**-53 * weights.sum()
    sums = np.cumsum(weights)
    token = int(np.searchsorted(sums, target, side="right"))
    distance = np.abs(sums - target).min() / weights.sum()
    return token, np.log(weights[token] / weights.sum()), distance


def test_the_best_by_rules(launch):
    """Rows of their own order, tokens that are certain, and what each rule does."""
    scores = np.array([[4, 3, 2, -1, 9], [-1, -2, -3, -4, 9], [1, 1, 0, 1, 9]], np.float32)
    rows = [
        {"from_": 1, "penalised": [0, 3]},
        {"from_": 0, "ruled_out": [0, 4, 77], "given": NONE},
        {"from_": 2, "given": 99},
    ]
    chosen, tokens = choose(launch, scores, 4, rows, {"penalty": 3.0}, filled_up=6)
    # -1 becomes -3, below -2.
    assert chosen["token"].tolist() == [1, 1, 99] and tokens == [1, 1, 99, 99, 99, 99]
    assert chosen["best"].tolist() == [-2, 3, 0]
    expected = [
        -2 - np.log(np.exp([-3.0, -2, -3, -12]).sum()),
        3 - np.log(np.exp([3.0, 2, -1]).sum()),
        0,
    ]
    np.testing.assert_allclose(chosen["log_probability"], expected, atol=1e-6)
    # Of equals the first; a score that grows, also without end; one that is out stays out.
    for rules, token, best in (
        ({}, 0, 4),
        ({"grown": [(3, 4.5)]}, 0, 4),
        ({"grown": [(2, 1.5)]}, 2, 5),
        ({"grown": [(2, np.inf)]}, 2, np.float32(1e30)),
        ({"grown": [(0, 9.0)], "ruled_out": [0]}, 1, 3),
        ({"ruled_out": [0, 1, 2, 3]}, 0, -np.inf),
        ({"from_": 2}, 0, 1),
        ({"from_": 2, "penalised": [0]}, 1, 1),
    ):
        chosen, _ = choose(launch, scores, 4, [{"from_": 0} | rules], {"penalty": 3.0})
        assert (chosen["token"][0], chosen["best"][0]) == (token, best), rules
    for value in (np.nan, np.inf):
        scores[1, 2] = value
        chosen, _ = choose(launch, scores, 4, [{"ruled_out": [2]}] * 3, {})
        assert chosen["broken"].tolist() == [0, 1, 0]


@pytest.mark.parametrize(("size", "limit", "threads"), [(40, 40, 32), (3000, 2999, 64)])
@pytest.mark.parametrize("spread", [0.3, 3.0])
def test_draws(launch, size, limit, threads, spread):
    """By every filter: few are left or nearly all, of scores of which many are equal."""
    scores = spread * np.round(normal(1, 8, size) * 16) / 16
    scores[3, 5:] = -np.inf
    scores[4] = 1.0
    settings = [
        {},
        {"temperature": 0.4},
        {"temperature": 1e-40},
        {"top_k": 1},
        {"top_k": 5, "temperature": 2.0},
        {"top_k": 30, "in_turn": 1},
        {"top_k": 7, "in_turn": 1, "top_p": 0.7},
        {"top_p": 0.0},
        {"top_p": 0.3},
        {"top_p": 0.99, "temperature": 3.0},
        {"top_p": 0.6, "top_k": 9},
        {"top_p": 0.9, "min_p": 0.3, "in_turn": 1},
        {"min_p": 0.05, "top_k": 100},
        {"top_k": size + 7, "in_turn": 1},
    ]
    compared = 0
    for seed, how in enumerate(settings):
        keys = np.random.default_rng(seed).integers(0, 2**32, (8, 2)).tolist()
        rows = [{"key": tuple(key), "position": seed % 5} for key in keys]
        chosen, _ = choose(launch, scores, limit, rows, how, threads=threads)
        for row, (key, found) in enumerate(zip(keys, chosen, strict=True)):
            real = scores[row, :limit]
            token, log_probability, distance = drawn(real, how, key, seed % 5)
            assert np.isfinite(real[found["token"]])
            if distance > 1e-5:
                assert found["token"] == token, (how, row)
                np.testing.assert_allclose(found["log_probability"], log_probability, atol=1e-4)
                compared += 1
    assert compared > 0.9 * 8 * len(settings)


class Beams(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("from_", "scores", "ends", "ruled_out", "stops")),
        *((name, ctypes.c_int) for name in ("stop_count", "beams")),
    ]


def test_how_beams_go_on(launch):
    """Two sources, of which the second comes first; equal scores, stop tokens, tokens that are
    out, and histories that beams take over."""
    beams, count, slots, length = 3, 4, 8, 5
    random = np.random.default_rng(1)
    # Eighths, so that there are equals.
    logits = -np.sort(-np.round(random.normal(size=(6, count)) * 8) / 8).astype(np.float32)
    ids = np.stack([random.permutation(30)[:count] for _ in range(6)]).astype(np.uint32)
    ids[4, 3] = NONE
    best = np.stack([logits, ids.view(np.float32)], axis=2).copy()
    log_sums = np.round(random.normal(size=6) * 8).astype(np.float32) / 8
    scores = np.array([-1, -0.5, -0.5, -2, -1.75, -1e9], np.float32)
    from_, ends = np.array([3, 4, 5, 0, 1, 2], np.uint32), np.array([0, 1, 1, 1, 3, 3], np.uint32)
    ruled_out = np.array([ids[4, 0], ids[1, 0], ids[1, 1]], np.uint32)
    stops = np.array([ids[3, 0], 77], np.uint32)
    next_rows = np.array([[slot, length] for slot in (4, 5, 6, 0, 1, 2, 2, 2)], np.uint32)
    origins = random.integers(0, slots, (9, slots)).astype(np.uint32)
    expected_origins, expected = origins.copy(), []
    for base in (0, 3):
        found = []
        for beam in range(beams):
            row = base + beam
            out = set(ruled_out[(ends[row - 1] if row else 0) : ends[row]]) | set(stops) | {NONE}
            for logit, token in zip(logits[from_[row]], ids[from_[row]], strict=True):
                if token not in out:
                    score = np.float32(logit - log_sums[from_[row]]) + scores[row]
                    found.append((-score, beam, int(token)))
        chosen = sorted(found)[:beams]
        expected += [[token, beam] for _, beam, token in chosen]
        slots_of = next_rows[base : base + beams, 0]
        for place, (_, beam, _) in enumerate(chosen):
            expected_origins[: length - 1, slots_of[place]] = origins[: length - 1, slots_of[beam]]
    assert len({beam for _, beam in expected[:3]}) < 3
    how = Beams(
        *(array.ctypes.data for array in (from_, scores, ends, ruled_out, stops)), len(stops), beams
    )
    continued, tokens = np.zeros((6, 2), np.uint32), np.zeros(8, np.uint32)
    arguments = (best, log_sums, count, how, next_rows, origins, slots, 6, continued, tokens, 8)
    launch("continue_beams", (2,), 128, 0, *arguments)
    assert continued.tolist() == expected
    last = expected[-1][0]
    assert tokens.tolist() == [token for token, _ in expected] + [last, last]
    np.testing.assert_array_equal(origins, expected_origins)
