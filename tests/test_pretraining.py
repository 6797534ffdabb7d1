"""BART's noise against its definition, and the data set that trains on it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import VOCABULARY, tiny_backbone

from bart_fast import models, optimizers
from bart_fast.pretraining import Denoiser, DenoisingDataset, noise

MASK = 99
unit_lists = st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=3), max_size=40)
ids_lists = st.lists(st.integers(0, 50), max_size=60)
shares = st.floats(0, 1)
seeds = st.integers(0, 2**32)


def stream(seed=0):
    return np.random.default_rng(seed)


def fits(noisy, units):
    """Whether masks can stand for runs of units (empty ones too) so that `units` comes out, each
    other one of `noisy` for itself: how a text is recovered. By dynamic programming."""
    reached = {0}
    for unit in noisy:
        if unit == [MASK]:
            reached = set(range(min(reached), len(units) + 1)) if reached else set()
        else:
            reached = {at + 1 for at in reached if at < len(units) and units[at] == unit}
    return len(units) in reached


@given(unit_lists, shares, st.floats(0.1, 6), seeds)
def test_infilling_leaves_all_but_the_share_in_order(units, share, length, seed):
    noisy = noise.infill(units, share, length, MASK, stream(seed))
    kept = [unit for unit in noisy if unit != [MASK]]
    assert len(kept) == len(units) - math.ceil(share * len(units))
    assert fits(noisy, units)
    # Masks stand for the units that are gone, and only where there is something to stand for.
    assert ([MASK] in noisy) == (math.ceil(share * len(units)) > 0)
    assert noise.infill(units, share, length, MASK, stream(seed)) == noisy


def test_spans_have_lengths_of_poisson_and_any_place():
    units, rng = [[i] for i in range(1000)], stream(3)
    masks, first, empty = [], 0, 0
    for _ in range(200):
        noisy = noise.infill(units, 0.3, 3.0, MASK, rng)
        masks.append(sum(unit == [MASK] for unit in noisy))
        first += noisy[0] == [MASK]
        # A mask between neighbours of the text stands for nothing.
        places = [i for i, unit in enumerate(noisy) if unit == [MASK] and 0 < i < len(noisy) - 1]
        neighbours = [(noisy[i - 1][0], noisy[i + 1][0]) for i in places]
        empty += sum(b - a == 1 for a, b in neighbours if MASK not in (a, b))
    # 300 units in spans of 3 on average, of which exp(-3) are empty.
    assert np.mean(masks) == pytest.approx(100, abs=2)
    share = empty / np.sum(masks)
    # Neighbours are both no masks three times in four.
    assert share == pytest.approx(math.exp(-3) * (700 / 800) ** 2, rel=0.15)
    assert first / 200 == pytest.approx(100 / 800, abs=0.07)


@given(ids_lists, shares, seeds)
def test_masking_and_deletion_take_their_share(ids, share, seed):
    wanted = math.ceil(share * len(ids))
    masked = noise.mask_tokens(ids, share, MASK, stream(seed))
    assert [a for a, b in zip(masked, ids, strict=True) if a != b] == [MASK] * wanted
    numbered = list(range(len(ids)))
    left = noise.delete_tokens(numbered, share, stream(seed))
    assert len(left) == len(ids) - wanted and sorted(left) == left and set(left) <= set(numbered)


@given(ids_lists, seeds)
def test_rotation_turns_the_text(ids, seed):
    turned = noise.rotate(ids, stream(seed))
    assert turned in ([ids] if not ids else [ids[i:] + ids[:i] for i in range(len(ids))])


def test_a_rotation_begins_anywhere():
    rng, counts = stream(1), np.zeros(5)
    for _ in range(2000):
        counts[noise.rotate([0, 1, 2, 3, 4], rng)[0]] += 1
    np.testing.assert_allclose(counts, 400, rtol=0.2)


SENTENCES = ["One two.", 'He said "no!"', "Why? 3.14 is", "Mr (x.) y.", "end"]


@given(st.lists(st.sampled_from(SENTENCES), max_size=6), st.sampled_from([" ", "\n\n"]), seeds)
def test_sentences_change_places(sentences, space, seed):
    text = space.join(sentences)
    got = noise.permute_sentences(text, 1.0, stream(seed))
    assert sorted(got.split()) == sorted(text.split()) and len(got) == len(text)
    assert noise.permute_sentences(text, 0.0, stream(seed)) == text


def test_where_sentences_end():
    text = '  "Stop!" she said. It is 3.5 km?  Yes.\nAnd no end'
    seen = {noise.permute_sentences(text, 1.0, stream(seed)) for seed in range(1500)}
    assert len(seen) == math.factorial(5)
    assert '  Yes. It is 3.5 km? "Stop!"  And no end\nshe said.' in seen
    # A share moves so many at most.
    moved = {noise.permute_sentences("a. b. c. d.", 0.5, stream(seed)) for seed in range(200)}
    assert "b. a. c. d." in moved and "b. a. d. c." not in moved and len(moved) == 7
    assert noise.permute_sentences("", 1.0, stream()) == ""


# On text.


def preprocessor(width=24):
    vocabulary = {**VOCABULARY, "<mask>": len(VOCABULARY), ".": len(VOCABULARY) + 1}
    tokenizer = models.BartTokenizer(vocabulary, [])
    return models.BartSeq2SeqLMPreprocessor(tokenizer, width, width)


TEXTS = ["the whale. a fox. it", "over the hill.", "b", "", "so it goes. on and on."]


def test_noise_depends_on_seed_epoch_and_number_alone():
    tokenizer = preprocessor().tokenizer
    denoiser = Denoiser(tokenizer, document_rotation=0.5, token_deletion=0.1, seed=3)
    noisy, ids = denoiser(TEXTS, epoch=1)
    assert ids == [list(row) for row in tokenizer._ragged_ids(TEXTS)]
    again = Denoiser(tokenizer, document_rotation=0.5, token_deletion=0.1, seed=3)
    parts = [again(TEXTS[3:], 1, 3)[0], again(TEXTS[:3], 1)[0]]
    assert parts[1] + parts[0] == noisy
    assert denoiser(TEXTS, epoch=2)[0] != noisy
    assert denoiser(TEXTS, epoch=1, first_index=1)[0] != noisy
    assert (
        Denoiser(tokenizer, seed=4)(TEXTS, epoch=1)[0] != Denoiser(tokenizer, seed=3)(TEXTS, 1)[0]
    )
    quiet = Denoiser(tokenizer, text_infilling=0, sentence_permutation=0, seed=3)
    assert quiet(TEXTS) == (ids, ids)


def test_spans_are_of_whole_words():
    tokenizer = preprocessor().tokenizer
    only = {"text_infilling": 0.5, "sentence_permutation": 0, "seed": 5}
    for seed in range(20):
        noisy, _ = Denoiser(tokenizer, **{**only, "seed": seed}).noise("abc def ghi jkl")
        words = tokenizer.detokenize(noisy).replace("<mask>", " ").split()
        assert set(words) <= {"abc", "def", "ghi", "jkl"} and len(words) == 2
    letters = [Denoiser(tokenizer, **only, whole_words=False).noise("abcd", i)[0] for i in range(9)]
    assert all(
        sum(token != tokenizer.token_to_id("<mask>") for token in row) == 2 for row in letters
    )


def test_a_data_set_gives_targets_as_they_are_and_fresh_noise_each_epoch():
    made = preprocessor()
    dataset = DenoisingDataset(TEXTS, made, Denoiser(made.tokenizer, seed=3), batch_size=2)
    assert len(dataset) == 3
    first = [dataset[i] for i in range(3)]
    np.testing.assert_array_equal(dataset[1][1], first[1][1])
    x, y, weight = (
        np.concatenate(parts)
        for parts in zip(
            *[(raw[0]["encoder_token_ids"], raw[1], raw[2]) for raw in first], strict=True
        )
    )
    clean = made({"encoder_text": TEXTS, "decoder_text": TEXTS})
    order = [int(np.flatnonzero((clean[1] == row).all(axis=1))[0]) for row in y]
    assert sorted(order) == list(range(5)) and order != sorted(order)
    np.testing.assert_array_equal(weight, clean[2][order])
    assert (x != clean[0]["encoder_token_ids"][order]).any(axis=1).sum() >= 3
    dataset.on_epoch_end()
    assert any((dataset[i][1] != first[i][1]).any() for i in range(3))
    resumed = DenoisingDataset(TEXTS, made, dataset.denoiser, batch_size=2, epoch=1)
    for i in range(3):
        for name, array in resumed[i][0].items():
            np.testing.assert_array_equal(array, dataset[i][0][name])
    with pytest.raises(IndexError):
        dataset[3]


def test_a_model_learns_to_undo_the_noise():
    made = preprocessor()
    backbone = tiny_backbone(vocabulary_size=len(VOCABULARY) + 2, dropout=0.0)
    model = models.BartSeq2SeqLM(backbone, made)
    model.compile(optimizers.Adam(0.01))
    dataset = DenoisingDataset(TEXTS, made, Denoiser(made.tokenizer, seed=3), batch_size=3)
    history = model.fit(dataset, epochs=15, verbose=0).history
    assert dataset.epoch == 15 and history["loss"][-1] < 0.7 * history["loss"][0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t, p: Denoiser("bart"), "`tokenizer` must be a `BartTokenizer`"),
        (lambda t, p: Denoiser(t, mask_token="[MASK]"), "hint: add it to the vocabulary"),
        (lambda t, p: Denoiser(t, text_infilling=1.5), "`text_infilling` must be a number from"),
        (lambda t, p: Denoiser(t, poisson_lambda=0.0), "`poisson_lambda` must be a finite"),
        (lambda t, p: Denoiser(t, whole_words=1), "`whole_words` must be"),
        (lambda t, p: Denoiser(t, seed=-1), "`seed` must be"),
        (lambda t, p: Denoiser(t)("one"), "`texts` must be a list of texts"),
        (lambda t, p: Denoiser(t).noise(3), "`text` must be a string"),
        (lambda t, p: DenoisingDataset([], p, Denoiser(t)), "`texts` must be a list of one"),
        (lambda t, p: DenoisingDataset(["a"], t, Denoiser(t)), "`preprocessor` must be"),
        (lambda t, p: DenoisingDataset(["a"], p, t), "`denoiser` must be"),
        (lambda t, p: DenoisingDataset(["a"], p, Denoiser(t), 0), "`batch_size` must be"),
    ],
)
def test_bad_arguments_are_named(make, message):
    made = preprocessor()
    with pytest.raises(ValueError, match=message):
        make(made.tokenizer, made)
