"""The example that builds the shipped model: sentences, split, noise, measures, batches."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from conftest import needs_shared, shared_folder

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples" / "text_repair"))

import align as align_module  # noqa: E402
import corpus  # noqa: E402
import evaluate  # noqa: E402
import literals  # noqa: E402
import measures  # noqa: E402
import noise as noise_module  # noqa: E402
import slips  # noqa: E402
import sources  # noqa: E402
import split as split_module  # noqa: E402

DATA = shared_folder() / "data" / "text_repair"

MISSPELLINGS = {"because": ["becuase", "becasue"], "their": ["thier"], "receive": ["recieve"]}
WORDS = frozenset(
    ["the", "form", "from", "he", "they", "because", "their", "receive", "a", "cat", "sat", "on"]
)


@pytest.fixture
def noise() -> noise_module.Noise:
    return noise_module.Noise(slips.Speller(MISSPELLINGS, WORDS))


# Sentences ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paragraph", "expected"),
    [
        ("One. Two! Three? Four.", ["One.", "Two!", "Three?", "Four."]),
        ("Mr. Smith met Dr. J. Brown. They left.", ["Mr. Smith met Dr. J. Brown.", "They left."]),
        (
            "He lives in the U.S. The U.S. Congress met.",
            ["He lives in the U.S.", "The U.S. Congress met."],
        ),
        (
            "\u201cWhat!\u201d I exclaimed. Then he left.",
            ["\u201cWhat!\u201d I exclaimed.", "Then he left."],
        ),
        ("\u201cGo. Run.\u201d", ["Go.", "Run."]),
        (
            "\u201cI saw it. All of it,\u201d he said. \u201cDid you?\u201d",
            ["\u201cI saw it. All of it,\u201d he said.", "Did you?"],
        ),
        ("\u201cA speech goes on. And on.", ["A speech goes on.", "And on."]),
        ("It cost 1.50 dollars. Cheap.", ["It cost 1.50 dollars.", "Cheap."]),
    ],
)
def test_paragraphs_are_split_at_sentence_ends_only(paragraph, expected):
    assert sources.split_sentences(paragraph) == expected


def test_typographic_marks_become_ascii_and_accents_stay():
    typographic = "\u201cIt\u2019s\u00a0a caf\u00e9\u2026\u201d \u2013 yes\u2014no"
    assert sources.to_ascii_marks(typographic) == '"It\'s a caf\u00e9..." - yes\u2014no'


@pytest.mark.parametrize(
    "junk",
    [
        "Chapter One",
        "no capital at the start.",
        "See https://example.com for more.",
        "Call print(x) to see it.",
        'He said "stop.',
        "Knopf, Random House, New York, Boston, Chicago Press.",
        "5 + 4 - 3 * 2 / 1.",
    ],
)
def test_what_is_not_running_english_is_left_out(junk):
    assert sources.is_running_english("He put the cat on the mat.")
    assert not sources.is_running_english(junk)


def test_missing_corpus_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`--data`: .*tatoeba\.txt does not exist"):
        list(sources.read_sentences(tmp_path))


# Split -------------------------------------------------------------------------------------------


def sentences(*texts: str, continues: bool = False) -> list[sources.Sentence]:
    return [sources.Sentence("openstax", text, continues) for text in texts]


def test_near_copies_fall_on_the_same_side():
    for number in range(200):
        word = "x" * number
        assert split_module.part_of(f"Tom {word} left.") == split_module.part_of(
            f"tom {word}, LEFT!"
        )


def test_split_has_no_leak_no_repeats_and_the_wanted_shares():
    def text(n: int) -> str:
        return f"Sentence {'abcdefghij'[n % 10]} {'klmnopqrst'[n // 10 % 10]} {n // 100 * 'u'}."

    texts = [text(n) for n in range(5000)]
    split = split_module.split_sentences_by_hash(sentences(*texts, *(t.upper() for t in texts)))
    parts = (split.train, split.validation, split.test)
    assert sum(map(len, parts)) == 5000
    assert 60 < len(split.test) < 150
    assert 25 < len(split.validation) < 85
    split_module.check_no_leak(split)
    split.train.append(split.test[0])
    with pytest.raises(ValueError, match="1 held-out sentences are in the training part"):
        split_module.check_no_leak(split)


def test_followers_are_training_sentences_of_one_paragraph():
    texts = [f"Paragraph sentence {chr(97 + n % 26)}{chr(97 + n // 26)}." for n in range(400)]
    split = split_module.split_sentences_by_hash(sentences(*texts, continues=True))
    position = {text: i for i, text in enumerate(texts)}
    joined = 0
    for i, following in enumerate(split.follower):
        if following >= 0:
            joined += 1
            here, there = split.train[i].text, split.train[following].text
            assert position[there] == position[here] + 1
    assert joined > 300


# Noise -------------------------------------------------------------------------------------------

SENTENCE = "They didn't leave, because their well-known cat (a tabby) receives $1,500.50 from me."


def test_full_noise_removes_case_and_marks_and_nothing_else():
    silent = noise_module.Noise(slips.Speller({}))
    assert noise_module.remove_marks(SENTENCE) == (
        "They didnt leave because their well known cat a tabby receives $1,500.50 from me"
    )
    for seed in range(20):
        noised = silent.full(SENTENCE, Random(seed)).split()
        clean = noise_module.remove_marks(SENTENCE).lower().split()
        assert len(noised) == len(clean)
        assert sum(a != b for a, b in zip(noised, clean, strict=True)) in (1, 2)


def test_noise_depends_on_the_seed_alone(noise):
    first = [noise.draw(SENTENCE, Random(seed)) for seed in range(300)]
    again = [noise.draw(SENTENCE, Random(seed)) for seed in range(300)]
    assert first == again
    assert len(set(first)) > 150
    held_out = noise_module.held_out_input(noise, SENTENCE, 1)
    assert held_out == noise_module.held_out_input(noise, SENTENCE, 1)
    assert held_out != noise_module.held_out_input(noise, SENTENCE, 2)


def test_the_share_of_misspelt_words_is_a_tenth(noise):
    text = " ".join(["because", "their", "cat", "sat", "from", "receive"] * 2)
    random, wrong, total = Random(0), 0, 0
    for _ in range(1000):
        words = noise.full(text, random).split()
        wrong += sum(word not in WORDS for word in words)
        total += len(words)
    assert wrong / total == pytest.approx(0.1, abs=0.01)


def test_levels_have_their_shares(noise):
    random = Random(3)
    drawn = [noise.draw(SENTENCE, random) for _ in range(3000)]
    assert 0.10 < sum(text == SENTENCE for text in drawn) / len(drawn) < 0.16
    silent = sum(not any(mark in text for mark in "'()-") and text.islower() for text in drawn)
    assert 0.25 < silent / len(drawn) < 0.45
    assert any(text.isupper() for text in drawn)


def test_known_misspellings_are_used_and_keep_the_capitals():
    speller = slips.Speller(MISSPELLINGS, WORDS)
    drawn = {speller.misspell("Because", Random(seed)) for seed in range(100)}
    assert {"Becuase", "Becasue"} < drawn
    assert all(word[0].isupper() for word in drawn)
    assert speller.misspell("BECAUSE", Random(1)).isupper()


def test_a_slip_never_gives_another_right_word_when_it_can_be_avoided():
    speller = slips.Speller({}, frozenset(["form", "fro", "rom", "from"]))
    assert not {speller.misspell("from", Random(s)) for s in range(300)} & {"form", "fro"}


@pytest.mark.parametrize(
    ("slip", "before", "allowed"),
    [
        (slips.drop_apostrophe, "I don't know", {"I dont know", "I don t know", "I do'nt know"}),
        (slips.swap_sound_alike, "Over there.", {"Over their.", "Over they're."}),
        (slips.break_agreement, "he goes home", {"he go home"}),
        (slips.break_agreement, "could have been", {"could of been"}),
        (slips.lower_a_capital, "I left", {"i left"}),
        (slips.drop_final_mark, "Go now!", {"Go now"}),
        (slips.drop_comma, "Well, yes", {"Well yes"}),
        (slips.space_around_mark, "yes, no", {"yes,no", "yes , no", "yes ,no"}),
        (slips.double_space, "a b", {"a  b", "a   b"}),
        (slips.join_words, "x a lot y", {"x alot y"}),
        (slips.split_word, "maybe together", {"may be together", "maybe to gether"}),
        (slips.repeat_word, "the", {"the the"}),
        (slips.double_mark, "Go.", {"Go..", "Go..."}),
        (slips.raise_a_capital, "a river", {"a River", "a RIVER"}),
    ],
)
def test_each_slip(slip, before, allowed):
    seen = set()
    for seed in range(100):
        words = before.split(" ")
        assert slip(words, Random(seed))
        seen.add(" ".join(words))
    assert seen == allowed


def test_slips_say_when_there_is_no_place_for_them():
    for slip in (slips.drop_apostrophe, slips.swap_sound_alike, slips.break_agreement,
                 slips.lower_a_capital, slips.drop_final_mark, slips.drop_comma,
                 slips.space_around_mark, slips.double_space, slips.double_mark):  # fmt: skip
        words = ["cat"]
        assert not slip(words, Random(0))
        assert words == ["cat"]


def test_noise_survives_odd_texts(noise):
    random = Random(0)
    for text in ("", ".", "...", "I", '"', "1,000.", "\u2014", "a", "\u00e9"):
        for _ in range(200):
            assert isinstance(noise.draw(text, random), str)
            assert isinstance(noise.full(text, random), str)


# Measures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hypothesis", "reference", "distance", "places"),
    [
        ("a b c", "a b c", 0, [[0, 1, 2]]),
        ("", "a b", 2, [[-1, -1]]),
        ("a b", "", 2, [[]]),
        ("a x c", "a b c", 1, [[0, 1, 2]]),
        ("a c", "a b c", 1, [[0, -1, 1]]),
        ("a b b c", "a b c", 1, [[0, 1, 3], [0, 2, 3]]),
        ("b a", "a b", 2, [[-1, 0], [1, -1]]),
    ],
)
def test_alignment_is_one_of_the_best(hypothesis, reference, distance, places):
    found, where = align_module.align(hypothesis.split(), reference.split())
    assert found == distance
    assert where in places


def test_scores_of_a_case_by_hand():
    scores = evaluate.Scores()
    # Input: "tom" and "left" are wrong, "the" and "old" right. Output: "Tom" mended, "old" spoilt.
    scores.add("tom the old left", "Tom the odd left.", "Tom the old left.")
    assert scores.shares() == {
        "word_error_rate_input": 0.5,
        "word_error_rate_output": 0.25,
        "reduction": 0.5,
        "right_words_made_wrong": 0.5,
        "right_words_made_wrong_letters": 0.5,
        "exact": 0.0,
    }
    scores.add("Go on", "Go, on", "Go on")  # a comma too many: wrong, but not in its letters
    assert (scores.made_wrong, scores.letters_made_wrong, scores.right_words) == (2, 1, 4)


def test_evaluate_rewards_the_perfect_model_and_not_the_idle_one(noise):
    split = split_module.Split()
    for source in sources.SOURCES:
        split.test += [sources.Sentence(source, f"He's {c}, the {c * 3} cat.") for c in "abcdefgh"]
    answers = {noise_module.held_out_input(noise, s.text, corpus.SEED): s.text for s in split.test}
    perfect = evaluate.evaluate(
        lambda texts: [answers.get(t, t) for t in texts], split, noise, part="test", limit=5
    )
    idle = evaluate.evaluate(list, split, noise, part="test", limit=5)
    for source in sources.SOURCES:
        assert perfect["noised"][source]["reduction"] == 1.0
        assert perfect["noised"][source]["exact"] == 1.0
        assert perfect["clean"][source]["right_words_made_wrong"] == 0.0
        assert idle["noised"][source]["reduction"] == 0.0
        assert idle["noised"][source]["counts"]["sentences"] == 5
        assert idle["noised"][source]["word_error_rate_input"] >= 0.6
    assert "| noised | tatoeba | 5 |" in evaluate.table(idle)


# Real data ---------------------------------------------------------------------------------------


@needs_shared("data/text_repair")
@pytest.mark.timeout(600)  # reads all corpora: ten seconds, more on a busy machine
def test_the_real_corpora_split_without_a_leak():
    split, noise = corpus.load_corpus(DATA)
    split_module.check_no_leak(split)
    assert len(split.train) > 300_000
    for source in sources.SOURCES:
        references = split.held_out("test", source, 500)
        assert len(references) == 500
        assert all(sources.is_running_english(text, min_words=1) for text in references)
        wrong = total = 0
        for text in references:
            silent = noise_module.remove_marks(text).lower().split()
            given = noise_module.held_out_input(noise, text, corpus.SEED).split()
            wrong += align_module.align(given, silent)[0]
            total += len(silent)
        assert wrong / total == pytest.approx(0.1, abs=0.012)


# Measures by kind --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "answer", "expected"),
    [
        # reference: Yes, Mary Ann saw 12 whales. Did you?
        ("", "Yes, Mary Ann saw 12 whales. Did you?", {
            "capitals": (4, 4, 4), "final marks": (2, 2, 2), "commas": (1, 1, 1)}),
        ("", "yes mary ann saw 12 whales did you", {
            "capitals": (0, 4, 0), "final marks": (0, 2, 0), "commas": (0, 1, 0)}),
        ("", "Yes Mary, ann Saw 12 whales! did you?", {
            "capitals": (2, 4, 3), "final marks": (1, 2, 2), "commas": (0, 1, 1)}),
        ("", "Yes, Mary Ann saw 12 12 whales. Extra. Did you?", {
            "capitals": (4, 4, 5), "final marks": (2, 2, 3), "commas": (1, 1, 1)}),
        ("yes mray an saw 12 whlaes", "Yes, Mary an saw 12 Whales.", {"misspelt": (2, 3)}),
    ],
)  # fmt: skip
def test_kinds_are_counted_on_aligned_words(given, answer, expected):
    reference = "Yes, Mary Ann saw 12 whales. Did you?"
    if "misspelt" in expected:
        reference = "Yes, Mary Ann saw 12 whales."
    counts = measures.count_repair(given, answer, reference)
    for kind, values in expected.items():
        if kind == "misspelt":
            assert (counts["misspelt: right"], counts["misspelt"]) == values
        else:
            assert tuple(counts[f"{kind}: {each}"] for each in ("right", "wanted", "set")) == values


def test_what_must_stay_is_counted():
    clean = 'On May 5 Dr. Who wrote to "I am" at a@b.org. Then I met Zoë in the U.S. for 1,5%.'
    words = clean.split()
    kinds = [measures.kept_kind(words, at) for at in range(len(words))]
    found = {kind: [w for w, k in zip(words, kinds, strict=True) if k == kind] for kind in kinds}
    assert found["numbers"] == ["5", "1,5%."]
    assert found["addresses"] == ["a@b.org."]
    assert found["names"] == ["May", "Dr.", "Zoë", "U.S."]
    counts = measures.count_kept(clean, clean.replace("Zoë", "Zoe").replace("a@b", "ab"))
    assert (counts["unchanged"], counts["names: kept"], counts["names"]) == (0, 3, 4)
    assert (counts["addresses: kept"], counts["numbers: kept"]) == (0, 2)
    assert measures.count_kept(clean, clean)["unchanged"] == 1


def test_intervals_hold_the_value_and_narrow():
    widths = []
    for count in (20, 2000):
        gathered = measures.Measures()
        gathered.extend(Counter(a=i % 4 == 0, b=1) for i in range(count))
        value, low, high = gathered.share("a", "b")
        assert value == 0.25 and low < value < high
        widths.append(high - low)
    assert widths[1] < 0.2 * widths[0]
    assert gathered.share("a", "c") is None


def test_literals_are_of_their_kind_and_new_names_replace_old_ones():
    random = Random(4)
    drawn = [literals.sentence_with_literals(random) for _ in range(300)]
    assert len(set(drawn)) > 250 and all("{" not in text for text in drawn)
    assert all(text == " ".join(text.split()) for text in drawn)
    assert sum(any(map(str.isdigit, text)) for text in drawn) > 100
    assert sum("://" in text or "www." in text for text in drawn) > 40
    names = literals.Names(["He met Maria and Roberto.", "Then Ludmilla came."], WORDS)
    text = "They met Maria, and Maria met Tom."
    renamed = names.rename(text, random)
    first, second = renamed.split()[2].strip(","), renamed.split()[4]
    assert first == second and first != "Maria" and first[0].isupper()
    assert names.rename("He sat on the mat.", random) == "He sat on the mat."
