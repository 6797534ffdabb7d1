"""`BartTokenizer`: ids, special tokens, vocabularies of all kinds, saving, refusals."""

import json
import random
import subprocess
import sys

import numpy as np
import pytest
from page_vocabulary import PAGE_MERGES, PAGE_VOCABULARY, SPECIAL

from bart_fast.models import BartTokenizer
from bart_fast.tokenizers import BartTokenizer as TokenizerUnderItsOtherName


def misprint(text):
    """`Ġ` as the page prints it: its UTF-8 bytes read as Latin-1."""
    return text.replace("Ġ", "Ġ".encode().decode("latin-1"))


@pytest.fixture(scope="module")
def page():
    return BartTokenizer(PAGE_VOCABULARY, PAGE_MERGES)


@pytest.fixture(scope="module")
def bart(bart_bpe):
    return BartTokenizer(str(bart_bpe / "vocab.json"), str(bart_bpe / "merges.txt"))


class TestPublishedVocabulary:
    # Recorded from Hugging Face's BartTokenizer, with `<mask>` declared as in the tokenizer.json of
    # the published models (it takes the space before it).
    @pytest.mark.parametrize(
        ("text", "ids"),
        [
            ("The quick brown fox.", [133, 2119, 6219, 23602, 4]),
            ("The quick brown fox", [133, 2119, 6219, 23602]),
            ("The fast", [133, 1769]),
            (
                "it's 12345 don't  x\n\n y",
                [405, 18, 17072, 1898, 218, 75, 1437, 3023, 50140, 1423],
            ),
            ("F\u0131 'S <Mask>", [597, 10031, 128, 104, 28696, 47661, 15698]),
            ("\ud7ff", [47649, 4333, 9470]),
            ("a</s>b", [102, 2, 428]),
            ("a </s> b", [102, 1437, 2, 741]),
            ("a<unk>b <unk> c", [102, 3, 428, 1437, 3, 740]),
            ("<pad>x", [1, 1178]),
            ("ab<s ></s>", [873, 41552, 29, 8061, 2]),
            ("<mask>", [50264]),
            (" <mask>", [50264]),
            ("a  <mask> b", [102, 50264, 741]),
            ("a <mask>\n<mask>", [102, 50264, 50264]),
            ("a\u00a0<mask>b", [102, 50264, 428]),
            ("a</s> <mask>", [102, 2, 50264]),
            ("", []),
        ],
    )
    def test_ids(self, bart, text, ids):
        assert bart(text).tolist() == ids

    @pytest.mark.parametrize(
        ("text", "ids"),
        [
            ("a", [10]),
            (" a", [10]),
            ("\na", [1437, 50118, 102]),
            ("<s>a</s>b", [0, 10, 2, 741]),
            ("", []),
        ],
    )
    def test_prefix_space(self, bart, text, ids):
        prefixed = BartTokenizer(bart.vocabulary, bart.merges, add_prefix_space=True)
        assert prefixed(text).tolist() == ids

    def test_any_text_comes_back_byte_for_byte(self, bart):
        texts = [random_text(random.Random(seed)) for seed in range(1000)]
        assert sum(len(text.encode()) > len(text) for text in texts) > 500
        ids = bart.tokenize(texts)
        assert bart.detokenize(ids) == texts
        assert [bart(text).tolist() for text in texts[:50]] == ids[:50]

    def test_long_text(self, bart):
        spaces = bart("\n" * 1_000_001 + "x")
        assert bart.detokenize(spaces) == "\n" * 1_000_001 + "x"
        assert spaces[-1] == bart.token_to_id("x")

    def test_special_ids(self, bart):
        assert (bart.start_token_id, bart.pad_token_id, bart.end_token_id) == (0, 1, 2)
        assert bart.special_tokens == ["<s>", "</s>", "<pad>"]
        assert bart.special_token_ids == [0, 2, 1]
        assert bart.vocabulary_size() == len(bart.get_vocabulary()) == 50265
        assert bart.id_to_token(50264) == "<mask>"
        assert bart.token_to_id("Ġfox") == 23602


def random_text(rng):
    """A string of characters from all over Unicode, with runs of ordinary text and space."""
    pieces = []
    for _ in range(rng.randrange(12)):
        kind = rng.randrange(5)
        if kind == 0:
            pieces.append("".join(rng.choices("abc ABC 123 .,'!?<>/s", k=rng.randrange(20))))
        elif kind == 1:
            pieces.append(
                rng.choice(" \t\n\r\x0b\x0c\x85\xa0\u2009\u3000\u200b") * rng.randrange(4)
            )
        elif kind == 2:
            pieces.append(chr(rng.randrange(0x80)))
        elif kind == 3:
            pieces.append(chr(rng.randrange(0x80, 0xD800)))
        else:
            pieces.append(chr(rng.randrange(0xE000, 0x110000)))
    return "".join(pieces)


def test_golden_of_keras_hub(keras_tiny, keras_golden):
    assets = keras_tiny / "assets" / "tokenizer"
    tokenizer = BartTokenizer(assets / "vocabulary.json", assets / "merges.txt")
    golden = json.loads(str(keras_golden["tok_json"]))
    assert tokenizer(golden["texts"]) == golden["ids"]
    assert tokenizer.detokenize(golden["ids"]) == golden["detok"]


@pytest.mark.parametrize("spell", [str, misprint], ids=["as meant", "as printed"])
def test_vocabulary_of_the_page(spell):
    vocabulary = {spell(token): id for token, id in PAGE_VOCABULARY.items()}
    tokenizer = BartTokenizer(vocabulary=vocabulary, merges=[spell(m) for m in PAGE_MERGES])
    # Printed wrongly, no piece stands for a space, so only "noon" is found.
    expected = [[5, 6, 7], [6, 7]] if spell is str else [[6], [6]]
    assert tokenizer([" afternoon sun", "noon sun"]) == expected


@pytest.mark.parametrize(
    ("text", "without", "with_unk"),
    [
        (" after", [5], [5]),
        (" aft", [], [3]),  # "Ġaft" is only on the way to "Ġafter"
        (" afternoon", [5, 6], [5, 6]),
        ("noonx", [6], [6, 3]),
        ("é", [], [3, 3]),  # two bytes
        ("noon<unk>noon", [6, 6], [6, 3, 6]),  # ordinary text without such a token
    ],
)
def test_pieces_outside_the_vocabulary(page, text, without, with_unk):
    assert page(text).tolist() == without
    known = BartTokenizer({**PAGE_VOCABULARY, "<unk>": 3}, PAGE_MERGES)
    assert known(text).tolist() == with_unk


class TestSpecialTokensInText:
    def test_default(self, page):
        assert page("<s> after</s><pad>noon").tolist() == [0, 5, 2, 1, 6]

    def test_chosen(self):
        tokenizer = BartTokenizer(PAGE_VOCABULARY, PAGE_MERGES, unsplittable_tokens=["noon"])
        assert tokenizer("xnoonx</s>").tolist() == [6]

    def test_none(self):
        vocabulary = {**SPECIAL, "<": 3, "s": 4, ">": 5, "/": 6}
        tokenizer = BartTokenizer(vocabulary, [], unsplittable_tokens=[])
        assert tokenizer("<s></s>").tolist() == [3, 4, 5, 3, 6, 4, 5]

    def test_must_be_in_the_vocabulary(self):
        with pytest.raises(ValueError, match=r"`vocabulary` .* Missing: '<sep>'"):
            BartTokenizer(PAGE_VOCABULARY, PAGE_MERGES, unsplittable_tokens=["noon", "<sep>"])


class TestInputs:
    @pytest.mark.parametrize(
        "inputs",
        [
            " after",
            b" after",
            np.str_(" after"),
            np.array(" after"),
            np.array(b" after"),
            np.array(" after", dtype=object),
        ],
        ids=repr,
    )
    def test_one(self, page, inputs):
        ids = page(inputs)
        assert ids.tolist() == [5] and ids.dtype == np.int32 and ids.shape == (1,)

    @pytest.mark.parametrize(
        "inputs",
        [
            [" after", "noon sun"],
            (" after", b"noon sun"),
            np.array([" after", "noon sun"]),
            np.array([b" after", b"noon sun"]),
            np.array([" after", b"noon sun"], dtype=object),
        ],
        ids=repr,
    )
    def test_many(self, page, inputs):
        assert page(inputs) == page.tokenize(inputs) == page.call(inputs) == [[5], [6, 7]]

    @pytest.mark.parametrize("inputs", [[], (), np.array([]), np.array([], dtype="U1")], ids=repr)
    def test_none(self, page, inputs):
        assert page(inputs) == []

    def test_empty_strings(self, page):
        ids = page("")
        assert ids.shape == (0,) and ids.dtype == np.int32
        assert page(["", "noon", ""]) == [[], [6], []]

    @pytest.mark.parametrize(
        ("inputs", "parts"),
        [
            (5, ["must be a string", "Received: 5."]),
            (None, ["must be a string", "None"]),
            ({"a": "b"}, ["must be a string"]),
            (["a", 5], ["item 1", "Received: 5."]),
            ([["a"]], ["item 0", "['a']"]),
            (np.array([["a"]]), ["must be a string"]),
            (np.array([1, 2]), ["must be a string"]),
            (b"ab\xff", ["UTF-8", "byte 2 of item 0", r"b'ab\xff'", "\nhint: "]),
            (["a", b"\xc3"], ["UTF-8", "byte 0 of item 1", "\nhint: "]),
            ("ab\ud800", ["lone surrogate", "character 2 of item 0", r"'ab\ud800'", "\nhint: "]),
            (["a", "\udc80b"], ["lone surrogate", "character 0 of item 1"]),
        ],
        ids=ascii,
    )
    def test_refused(self, page, inputs, parts):
        with pytest.raises(ValueError, match=r"^`inputs` ") as caught:
            page(inputs)
        for part in parts:
            assert part in str(caught.value)


class TestOutputs:
    def test_sequence_length(self):
        tokenizer = BartTokenizer(PAGE_VOCABULARY, PAGE_MERGES, sequence_length=3)
        many = tokenizer(["noon", " after sun sun sun", ""])
        assert many.dtype == np.int32
        assert many.tolist() == [[6, 1, 1], [5, 7, 7], [1, 1, 1]]
        assert tokenizer("noon").tolist() == [6, 1, 1]
        assert tokenizer([]).shape == (0, 3)

    @pytest.mark.parametrize("dtype", ["int64", np.int64, np.dtype("int64")])
    def test_int64(self, dtype):
        tokenizer = BartTokenizer(PAGE_VOCABULARY, PAGE_MERGES, dtype=dtype)
        assert tokenizer("noon").dtype == np.int64
        assert tokenizer.get_config()["dtype"] == "int64"

    def test_strings(self):
        tokenizer = BartTokenizer(PAGE_VOCABULARY, PAGE_MERGES, dtype="string")
        assert tokenizer(" after sun") == ["Ġafter", "Ġsun"]
        assert tokenizer(["noon", ""]) == [["noon"], []]
        tokenizer.sequence_length = 2
        assert tokenizer("noon") == ["noon", "<pad>"]


class TestDetokenize:
    @pytest.mark.parametrize(
        ("ids", "text"),
        [
            ([5, 6], " afternoon"),
            (np.array([5, 6], dtype=np.int32), " afternoon"),
            (6, "noon"),
            (np.int64(6), "noon"),
            ([], ""),
            (np.array([], dtype=np.int32), ""),
            ([0, 6, 2, 1], "<s>noon</s><pad>"),
            ([[5, 6], [7]], [" afternoon", " sun"]),
            ([[5, 6], []], [" afternoon", ""]),
            ([np.array([5]), np.array([6, 7])], [" after", "noon sun"]),
            (np.array([[5, 6], [6, 7]]), [" afternoon", "noon sun"]),
            (np.zeros((0, 3), dtype=np.int32), []),
        ],
    )
    def test_forms(self, page, ids, text):
        assert page.detokenize(ids) == text

    def test_broken_utf8_is_replaced(self, bart):
        first, *rest = bart("😀")
        assert rest and bart.detokenize([first]) == "\ufffd"
        assert bart.detokenize([*rest, 133]).endswith("\ufffdThe")

    @pytest.mark.parametrize(
        ("ids", "parts"),
        [
            ([5, 3], ["from 0 to 7", "Received: 3 at row 0, position 1"]),
            ([[5], [6, 8]], ["Received: 8 at row 1, position 1"]),
            ([-1], ["Received: -1 at row 0, position 0"]),
            ([2**40], ["Received: 1099511627776 at row 0"]),
            ([1.5], ["integers", "1.5"]),
            (["noon"], ["integers", "'noon'"]),
            ([True], ["integers"]),
            (None, ["integers"]),
            (np.zeros((1, 1, 1), dtype=np.int32), ["one or two axes"]),
            ([[[1]], [[2, 3]]], ["one or two axes"]),
            ([5, [6]], ["integers"]),
        ],
        ids=str,
    )
    def test_refused(self, page, ids, parts):
        with pytest.raises(ValueError, match=r"^`inputs` ") as caught:
            page.detokenize(ids)
        for part in parts:
            assert part in str(caught.value)


class TestVocabulary:
    @pytest.mark.parametrize(
        ("vocabulary", "parts"),
        [
            ({"<s>": 0}, ["Missing: '</s>', '<pad>'."]),
            ({**SPECIAL, "a": 2}, ["'</s>'", "'a'", "same id 2"]),
            ({**SPECIAL, "a": -1}, ["'a': -1"]),
            ({**SPECIAL, "a": "3"}, ["'a': '3'"]),
            ({**SPECIAL, "a": 1.5}, ["'a': 1.5"]),
            ({**SPECIAL, "a": 2**31}, ["2147483648", "2147483647"]),
            ({**SPECIAL, 7: 7}, ["7: 7"]),
            (["<s>"], ["['<s>']"]),
            (5, ["Received: 5."]),
        ],
        ids=str,
    )
    def test_refused(self, vocabulary, parts):
        with pytest.raises(ValueError, match="`vocabulary`") as caught:
            BartTokenizer(vocabulary, [])
        for part in parts:
            assert part.replace("'", '"') in str(caught.value).replace("'", '"')

    @pytest.mark.parametrize(
        ("merges", "part"),
        [
            (["a"], "a"),
            (["a b", "a b c"], "a b c"),
            (["a b", ""], '""'),
            (["a b", 5], "item 1"),
            (5, "Received: 5."),
            (b"a b", "b'a b'"),
        ],
        ids=str,
    )
    def test_refused_merges(self, merges, part):
        with pytest.raises(ValueError, match="`merges`") as caught:
            BartTokenizer(SPECIAL, merges)
        assert part in str(caught.value)

    @pytest.mark.parametrize("given", ["vocabulary", "merges"])
    def test_one_without_the_other(self, given):
        value = {"vocabulary": SPECIAL, "merges": []}[given]
        with pytest.raises(ValueError, match=f"must be given together with `{given}`"):
            BartTokenizer(**{given: value})

    def test_none_yet(self):
        tokenizer = BartTokenizer()
        assert tokenizer.end_token_id is None
        for use in (
            lambda: tokenizer("a"),
            lambda: tokenizer.detokenize([0]),
            tokenizer.vocabulary_size,
            tokenizer.get_vocabulary,
            lambda: tokenizer.token_to_id("a"),
            lambda: tokenizer.id_to_token(0),
        ):
            with pytest.raises(ValueError, match=r"no vocabulary yet\.\nhint: "):
                use()

    def test_tokens_and_ids(self, page):
        assert page.get_vocabulary() == list(PAGE_VOCABULARY)
        assert page.token_to_id("Ġsun") == 7
        assert page.id_to_token(np.int64(5)) == "Ġafter"
        for id in (3, 8, -1, 2**70, 1.5, "5"):
            with pytest.raises(ValueError, match="`id`"):
                page.id_to_token(id)
        for token in ("sun", "Ġaft", "", 7, ["Ġsun"], None):
            with pytest.raises(ValueError, match="`token`"):
                page.token_to_id(token)

    def test_pairs_as_merges_and_numpy_ids(self):
        vocabulary = {token: np.int64(id) for token, id in PAGE_VOCABULARY.items()}
        tokenizer = BartTokenizer(vocabulary, [tuple(merge.split(" ")) for merge in PAGE_MERGES])
        assert tokenizer(" after").tolist() == [5]
        assert tokenizer.merges == PAGE_MERGES
        lines = ["#version: 0.2\n", *(f"{merge}\n" for merge in PAGE_MERGES)]
        assert BartTokenizer(vocabulary, lines).merges == PAGE_MERGES, "as readlines() gives them"
        assert json.dumps(tokenizer.vocabulary) == json.dumps(PAGE_VOCABULARY)


def test_names():
    assert TokenizerUnderItsOtherName is BartTokenizer
    assert "bart_base_en" in BartTokenizer.presets


def test_a_forked_child_tokenizes():
    """Large batches use threads, which a child does not inherit: none may be waited for."""
    code = """if True:
        import os
        from bart_fast.models import BartTokenizer
        vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "a": 3}
        tokenizer = BartTokenizer(vocabulary, ["a a"])
        texts = ["a b " * 20_000] * 8
        ids = tokenizer(texts)
        child = os.fork()
        if child == 0:
            os._exit(0 if tokenizer(texts) == ids else 3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    """
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)
