"""Samplers called by themselves, with a fake `next` over an alphabet: answers are words."""

import copy
import pickle

import numpy as np
import pytest

import bart_fast
from bart_fast import samplers
from bart_fast.samplers.sampler import core_options

ALPHABET = "abcdefghijklmnopqrstuvwxyz"
VOCABULARY = len(ALPHABET)


def ids(*words):
    return np.array([[ALPHABET.index(letter) for letter in word] for word in words])


def words(prompt):
    return ["".join(ALPHABET[id] for id in row) for row in np.asarray(prompt)]


def speller(*targets):
    """A `next` that is all but certain of the letters of `targets`, and counts in its cache."""

    def next(prompt, cache, index):
        logits = np.zeros((len(prompt), VOCABULARY), dtype=np.float32)
        for row in range(len(prompt)):
            target = targets[row * len(targets) // len(prompt)]
            logits[row, ALPHABET.index(target[index])] = 40.0
        return logits, None, None if cache is None else (cache[0] + 1,)

    return next


def table(followers):
    """A `next` with given probabilities of each letter's followers."""

    def logits_of(letter):
        logits = np.full(VOCABULARY, -60.0, dtype=np.float32)
        for follower, probability in followers[ALPHABET[letter]].items():
            logits[ALPHABET.index(follower)] = np.log(probability)
        return logits

    def next(prompt, cache, index):
        return np.stack([logits_of(row[index - 1]) for row in prompt]), None, cache

    return next


EVERY = [
    samplers.GreedySampler(),
    samplers.RandomSampler(seed=3),
    samplers.TopKSampler(seed=3),
    samplers.TopPSampler(p=0.5, seed=3),
    samplers.BeamSampler(num_beams=3),
    samplers.BeamSampler(num_beams=3, compat="keras"),
]


def each_sampler(function, every=EVERY):
    names = [f"{type(s).__name__}{getattr(s, 'compat', None) or ''}" for s in every]
    return pytest.mark.parametrize("sampler", every, ids=names)(function)


def each_sampler_with_a_config(function):
    return each_sampler(function, [*EVERY, samplers.ContrastiveSampler(k=3, alpha=0.5)])


@each_sampler
def test_spells_what_next_is_certain_of(sampler):
    prompt = np.zeros((2, 8), dtype=int)
    output = sampler(next=speller("sequence", "ordering"), prompt=prompt)
    assert words(output) == ["sequence", "ordering"]
    assert not prompt.any(), "the caller's prompt must not change"


@pytest.mark.parametrize("sampler", EVERY[:4])  # beams look on for better answers
def test_stops_when_every_row_has_produced_a_stop_token(sampler):
    seen = []
    spell = speller("applezzz", "sandwizz")

    def next(prompt, cache, index):
        seen.append(index)
        return spell(prompt, cache, index)

    output = sampler(next=next, prompt=np.full((2, 8), 25), stop_token_ids=[25])
    assert [word.split("z")[0] for word in words(output)] == ["apple", "sandwi"]
    assert max(seen) == 6


@each_sampler
def test_several_stop_tokens(sampler):
    stops = [ALPHABET.index(letter) for letter in "xy"]
    output = sampler(
        next=speller("catxaaaa", "boaryaaa"), prompt=np.full((2, 8), 25), stop_token_ids=stops
    )
    assert words(output)[0][:4] == "catx"
    assert words(output)[1][:5] == "boary"


@each_sampler
def test_prompts_stay_where_the_mask_is_true(sampler):
    prompt = ids("zzzzzzzz", "pppzzzzz")
    mask = np.array([[True] * 2 + [False] * 6, [True] * 3 + [False] * 5])
    output = sampler(next=speller("aaaaaaaa", "bbbbbbbb"), prompt=prompt, index=2, mask=mask)
    assert words(output) == ["zzaaaaaa", "pppbbbbb"]


def test_a_stop_token_of_the_prompt_or_in_the_padding_does_not_stop():
    prompt = ids("zczzz")
    mask = np.array([[True, True, False, False, False]])
    output = samplers.GreedySampler()(
        next=speller("aaaaa"), prompt=prompt, index=2, mask=mask, stop_token_ids=[25]
    )
    assert words(output) == ["zcaaa"]


@each_sampler
def test_the_cache_goes_from_call_to_call(sampler):
    caches = []
    spell = speller("abcd")

    def next(prompt, cache, index):
        caches.append(cache[0].copy())
        assert len(cache[0]) == len(prompt)
        return spell(prompt, cache, index)

    sampler(next=next, prompt=np.zeros((1, 4), int), cache=(np.zeros((1, 2)),))
    assert [int(cache.flat[0]) for cache in caches] == [0, 1, 2, 3]


def test_greedy_takes_the_first_of_equals():
    probabilities = np.array([[0.2, 0.4, 0.4], [0.5, 0.0, 0.5]])
    assert samplers.GreedySampler().get_next_token(probabilities).tolist() == [1, 0]


def test_probabilities_are_the_softmax_of_scaled_logits_in_float32():
    logits = np.log(np.array([[1.0, 2.0, 5.0]]))
    probabilities = samplers.Sampler(temperature=0.5).compute_probabilities(logits)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, [[1 / 30, 4 / 30, 25 / 30]], rtol=1e-6)
    huge = samplers.Sampler().compute_probabilities(np.array([[1e4, 0.0]]))
    assert huge.tolist() == [[1.0, 0.0]]


PROBABILITIES = np.array([0.05, 0.3, 0.02, 0.25, 0.15, 0.08, 0.15])


@pytest.mark.parametrize(
    ("sampler", "kept"),
    [
        (samplers.RandomSampler(seed=11), [0, 1, 2, 3, 4, 5, 6]),
        (samplers.TopKSampler(k=3, seed=11), [1, 3, 4]),  # of the equals 4 and 6 the lower id
        (samplers.TopKSampler(k=99, seed=11), [0, 1, 2, 3, 4, 5, 6]),
        (samplers.TopPSampler(p=0.5, seed=11), [1, 3]),
        (samplers.TopPSampler(p=0.6, seed=11), [1, 3, 4]),
        (samplers.TopPSampler(p=0.9, k=2, seed=11), [1, 3]),
        (samplers.TopPSampler(p=0.0, seed=11), [1]),
        (samplers.TopPSampler(p=1.0, seed=11), [0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_drawn_frequencies_follow_the_distribution(sampler, kept):
    draws = 20_000
    drawn = sampler.get_next_token(np.tile(PROBABILITIES, (draws, 1)))
    counts = np.bincount(drawn, minlength=len(PROBABILITIES))
    expected = np.where(np.isin(np.arange(len(PROBABILITIES)), kept), PROBABILITIES, 0.0)
    expected = draws * expected / expected.sum()
    assert counts[expected == 0].sum() == 0
    chi_square = ((counts - expected)[kept] ** 2 / expected[kept]).sum()
    # The 99.9 % points for 0 to 6 degrees of freedom.
    assert chi_square <= [0.0, 10.8, 13.8, 16.3, 18.5, 20.5, 22.5][len(kept) - 1]


def test_a_weight_of_zero_is_never_drawn():
    sampler = samplers.RandomSampler(seed=1)
    weights = np.tile([0.0, 1.0, 0.0], (10_000, 1))
    assert set(sampler.get_next_token(weights)) == {1}


@pytest.mark.parametrize("cls", [samplers.RandomSampler, samplers.TopKSampler])
def test_equal_seeds_draw_equally_and_calls_differ(cls):
    weights = np.full((50, 26), 1 / 26)
    one, two, other = cls(seed=5), cls(seed=5), cls(seed=6)
    first = one.get_next_token(weights).tolist()
    assert first == two.get_next_token(weights).tolist()
    assert first != one.get_next_token(weights).tolist()
    assert first != other.get_next_token(weights).tolist()
    assert cls(seed=5).next_call_seed() == 5
    assert one.next_call_seed() != one.next_call_seed()


def test_set_random_seed_repeats_samplers_without_one():
    drawn = []
    for _ in range(2):
        bart_fast.set_random_seed(9)
        drawn.append(samplers.RandomSampler().get_next_token(np.full((40, 26), 1 / 26)).tolist())
    assert drawn[0] == drawn[1]


# Beam search.

# Going by "b" costs at first and pays later.
DETOUR = {
    "a": {"b": 0.4, "c": 0.6},
    "b": {"d": 0.95, "e": 0.05},
    "c": {"d": 0.5, "e": 0.5},
    "d": {"d": 1.0},
    "e": {"e": 1.0},
}

# "z" ends. Short: log 0.45 = -0.80. Long: log(0.55 * 0.7) = -0.95, but over three letters.
LENGTHS = {
    "a": {"z": 0.45, "b": 0.55},
    "b": {"c": 1.0},
    "c": {"z": 0.7, "c": 0.3},
    "z": {"z": 1.0},
}


@pytest.mark.parametrize("compat", [None, "keras"])
def test_beams_find_what_greedy_misses(compat):
    greedy = samplers.GreedySampler()(next=table(DETOUR), prompt=ids("aaa"), index=1)
    assert words(greedy) == ["acd"]
    beam = samplers.BeamSampler(num_beams=2, compat=compat)
    assert words(beam(next=table(DETOUR), prompt=ids("aaa"), index=1)) == ["abd"]
    one = samplers.BeamSampler(num_beams=1, compat=compat)
    assert words(one(next=table(DETOUR), prompt=ids("aaa"), index=1)) == ["acd"]


@pytest.mark.parametrize("compat", [None, "keras"])
def test_all_beams_come_best_first_with_their_scores(compat):
    beam = samplers.BeamSampler(num_beams=3, return_all_beams=True, compat=compat)
    sequences, scores = beam(next=table(DETOUR), prompt=ids("aaa", "aaa"), index=1)
    assert sequences.shape == (2, 3, 3)
    assert words(sequences[0]) == ["abd", "acd", "ace"]
    expected = np.log([0.38, 0.3, 0.3])
    # Hugging Face's rule divides by the two letters after the prompt.
    np.testing.assert_allclose(scores[1], expected / (1 if compat else 2), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ({"length_penalty": 0.0}, "az"),
        ({"length_penalty": 1.0}, "abcz"),
        ({"length_penalty": -2.0}, "az"),
        ({"compat": "keras"}, "az"),
        ({"length_penalty": 1.0, "early_stopping": "never"}, "abcz"),
    ],
)
def test_length_penalty(arguments, answer):
    beam = samplers.BeamSampler(num_beams=2, **arguments)
    output = beam(next=table(LENGTHS), prompt=ids("azzzzz"), index=1, stop_token_ids=[25])
    word = words(output)[0]
    assert word[: word.index("z") + 1] == answer


def test_early_stopping_ends_the_search_sooner():
    steps = {}
    for early in (True, "never"):
        seen = []

        def next(prompt, cache, index, seen=seen):
            seen.append(index)
            return table(LENGTHS)(prompt, cache, index)

        beam = samplers.BeamSampler(num_beams=2, early_stopping=early, length_penalty=2.0)
        beam(next=next, prompt=ids("a" + "z" * 19), index=1, stop_token_ids=[25])
        steps[early] = len(seen)
    assert steps[True] == 3
    assert steps[True] < steps["never"]


@pytest.mark.parametrize("compat", [None, "keras"])
def test_beams_reorder_the_cache(compat):
    """The cache records each beam's own letters; it must always match the prompt."""

    def next(prompt, cache, index):
        history = cache["letters"][0].copy()
        np.testing.assert_array_equal(history[:, : index - 1], prompt[:, : index - 1])
        history[:, index - 1] = prompt[:, index - 1]
        logits, _, _ = table(DETOUR)(prompt, None, index)
        return logits, None, {"letters": [history]}

    beam = samplers.BeamSampler(num_beams=3, compat=compat)
    beam(next=next, prompt=ids("aaaaa"), cache={"letters": [np.zeros((1, 5), int)]}, index=1)


# Contrastive search.

# Letters and their hidden states: "b" and "c" are nearly alike.
MEANINGS = {"a": [1.0, 0.0, 0.0], "b": [0.0, 2.0, 0.0], "c": [0.0, 1.0, 0.2], "d": [0.0, 0.0, 3.0]}


def meanings_of(prompt):
    return np.array([[MEANINGS[letter] for letter in word] for word in words(prompt)])


@pytest.mark.parametrize(
    ("alpha", "answers"),
    [(0.0, ["daaa", "dbaa"]), (0.6, ["daba", "dbaa"]), (0.95, ["dabc", "dbac"])],
)
def test_contrastive_search_prefers_what_was_not_said_yet(alpha, answers):
    followers = {letter: {"a": 0.4, "b": 0.36, "c": 0.22, "d": 0.02} for letter in "abcd"}
    seen = []

    def next(prompt, cache, index):
        seen.append((len(prompt), index))
        np.testing.assert_array_equal(cache[0][:, : index - 1], prompt[:, : index - 1])
        logits, _, _ = table(followers)(np.asarray(prompt)[:, :index], None, index)
        return logits, meanings_of(prompt)[:, index - 1], (np.array(prompt),)

    prompt, mask = ids("daaa", "dbaa"), np.array([[1, 0, 0, 0], [1, 1, 0, 0]], dtype=bool)
    sampler = samplers.ContrastiveSampler(k=3, alpha=alpha)
    output = sampler(
        next, prompt, (prompt.copy(),), index=1, mask=mask, hidden_states=meanings_of(prompt)
    )
    assert words(output) == answers
    assert seen == [(2, 1), (6, 2), (6, 3), (6, 4)]


def test_contrastive_search_stops_when_every_row_has_ended():
    followers = {"d": {"a": 0.9, "b": 0.1}, "a": {"b": 1.0}, "b": {"b": 1.0}}

    def next(prompt, cache, index):
        logits, _, _ = table(followers)(prompt, None, index)
        return logits, meanings_of(prompt)[:, index - 1], cache

    prompt = ids("dccc")
    output = samplers.ContrastiveSampler(k=2)(
        next, prompt, index=1, stop_token_ids=[0], hidden_states=meanings_of(prompt)
    )
    assert words(output) == ["dacc"]


# Registry and configs.


@pytest.mark.parametrize("name", ["greedy", "random", "top_k", "top_p", "contrastive", "beam"])
def test_names(name):
    sampler = samplers.get(name)
    assert samplers.get(type(sampler)).get_config() == sampler.get_config()
    assert samplers.get(sampler) is sampler
    assert samplers.deserialize(name).get_config() == sampler.get_config()
    assert getattr(bart_fast, type(sampler).__name__) is type(sampler)


@each_sampler_with_a_config
def test_config_and_serialised_form_come_back(sampler):
    config = sampler.get_config()
    assert type(sampler).from_config(config).get_config() == config
    saved = samplers.serialize(sampler)
    assert saved["registered_name"] == f"keras_hub>{type(sampler).__name__}"
    for form in (saved, {"class_name": saved["registered_name"], "config": config}):
        again = samplers.get(form)
        assert type(again) is type(sampler)
        assert again.get_config() == config


@each_sampler_with_a_config
def test_copies_and_pickles(sampler):
    for again in (copy.deepcopy(sampler), pickle.loads(pickle.dumps(sampler))):
        assert again.get_config() == sampler.get_config()


def test_get_passes_none_and_functions_through():
    def function(*args):
        return None

    assert samplers.get(None) is None
    assert samplers.get(function) is function


class Ranked(samplers.Sampler):
    """Takes the token of a given rank."""

    def __init__(self, rank=1, **kwargs):
        super().__init__(**kwargs)
        self.rank = rank

    def get_next_token(self, probabilities):
        assert probabilities.dtype == np.float32
        return np.argsort(-probabilities, axis=-1, kind="stable")[:, self.rank]

    def get_config(self):
        return {**super().get_config(), "rank": self.rank}


def test_a_sampler_of_ones_own():
    output = Ranked()(next=table(DETOUR), prompt=ids("aaa"), index=1)
    assert words(output)[0][:2] == "ab"
    saved = samplers.serialize(Ranked(rank=2))
    assert samplers.deserialize(saved, custom_objects={"Ranked": Ranked}).rank == 2
    with pytest.raises(ValueError, match="unknown sampler 'Ranked'"):
        samplers.deserialize(saved)
    with pytest.raises(NotImplementedError, match="get_next_token"):
        samplers.Sampler()(next=table(DETOUR), prompt=ids("aaa"), index=1)


def test_only_unchanged_samplers_run_in_the_core():
    class Renamed(samplers.TopKSampler):
        pass

    class Changed(samplers.GreedySampler):
        def compute_probabilities(self, logits):
            return super().compute_probabilities(-logits)

    assert core_options(samplers.TopKSampler(k=7)) == {
        "sampler": "top_k",
        "temperature": 1.0,
        "k": 7,
    }
    assert core_options(Renamed(k=7)) == core_options(samplers.TopKSampler(k=7))
    assert core_options(Changed()) is None
    assert core_options(Ranked()) is None
    assert core_options(print) is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: samplers.TopKSampler(k=0), "`k` must be a whole number of at least 1"),
        (lambda: samplers.TopKSampler(k=2.5), "`k` must be a whole number of at least 1"),
        (lambda: samplers.TopKSampler(seed=-1), "`seed` must be a whole number of at least 0"),
        (lambda: samplers.TopKSampler(seed=2**63), "`seed` must be below"),
        (lambda: samplers.TopPSampler(p=1.5), "`p` must be a number from 0 to 1"),
        (lambda: samplers.TopPSampler(p=float("nan")), "`p` must be a number from 0 to 1"),
        (lambda: samplers.TopPSampler(k=-1), "`k` must be"),
        (lambda: samplers.RandomSampler(temperature=0), "GreedySampler"),
        (lambda: samplers.RandomSampler(temperature="hot"), "`temperature` must be a finite"),
        (lambda: samplers.ContrastiveSampler(k=0), "`k` must be"),
        (lambda: samplers.ContrastiveSampler(alpha=1.5), "`alpha` must be a number from 0 to 1"),
        (
            lambda: samplers.ContrastiveSampler()(next=print, prompt=np.zeros((1, 3), int)),
            "`hidden_states` must be the hidden states of the prompt",
        ),
        (
            lambda: samplers.ContrastiveSampler()(
                next=print, prompt=np.zeros((1, 3), int), hidden_states=np.zeros((1, 2, 4))
            ),
            "`hidden_states` must have the shape",
        ),
        (lambda: samplers.BeamSampler(num_beams=0), "`num_beams` must be"),
        (lambda: samplers.BeamSampler(num_beams=True), "`num_beams` must be"),
        (lambda: samplers.BeamSampler(early_stopping="soon"), "`early_stopping` must be"),
        (lambda: samplers.BeamSampler(early_stopping=1), "`early_stopping` must be"),
        (lambda: samplers.BeamSampler(early_stopping=np.ones(2)), "`early_stopping` must be"),
        (lambda: samplers.BeamSampler(length_penalty=float("inf")), "`length_penalty` must be"),
        (lambda: samplers.BeamSampler(compat="torch"), "`compat` must be"),
        (lambda: samplers.BeamSampler(compat="keras", length_penalty=2.0), "length_penalty"),
        (
            lambda: samplers.get("gready"),
            'unknown sampler \'gready\'. Known: "beam", "contrastive"',
        ),
        (lambda: samplers.get(3), "`sampler` must be a name"),
        (lambda: samplers.get({"k": 3}), "`class_name`"),
        (lambda: samplers.serialize("greedy"), "`sampler` must be a `Sampler`"),
        (lambda: samplers.GreedySampler()(next=None, prompt=np.zeros(3, int)), "`prompt` must be"),
        (
            lambda: samplers.GreedySampler()(
                next=None, prompt=np.zeros((1, 3), int), mask=[[True]]
            ),
            "`mask` must have the shape",
        ),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError) as caught:
        make()
    assert message in str(caught.value)
