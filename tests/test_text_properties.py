"""What holds for the tokenizer and the preprocessor with any text, vocabulary and file."""

import contextlib
import json

import numpy as np
from byte_vocabulary import BYTE_VOCABULARY
from hypothesis import example, given
from hypothesis import strategies as st
from properties import examples

from bart_fast.models import BartSeq2SeqLMPreprocessor, BartTokenizer

# Any text, and texts in which a few pieces come again and again.
ANY_TEXT = st.one_of(
    st.text(max_size=60),
    st.lists(st.sampled_from([*"ab \n\0é日😀", "'s", "12", "</s>", "  "])).map("".join),
)
# Also what is no text: halves of surrogate pairs.
ANY_STRING = st.text(st.characters(exclude_categories=[]), max_size=30)


@st.composite
def merges(draw):
    """Of what every byte gives, most likely of pieces that go together."""
    rules, pieces = [], ["a", "b", "Ġ", "Ã", "©", "1", "'"]
    for _ in range(draw(st.integers(0, 8))):
        left, right = draw(st.sampled_from(pieces)), draw(st.sampled_from(pieces))
        if left + right not in pieces:
            rules.append(f"{left} {right}")
            pieces.append(left + right)
    return rules


def tokenizer_of(rules, **arguments):
    vocabulary = dict(BYTE_VOCABULARY)
    for rule in rules:
        vocabulary[rule.replace(" ", "")] = len(vocabulary)
    return BartTokenizer(vocabulary, rules, **arguments)


def is_text(string):
    try:
        string.encode()
    except UnicodeEncodeError:
        return False
    return True


@examples(100)
@given(merges(), st.lists(ANY_TEXT, min_size=1, max_size=4))
def test_text_comes_back_from_its_tokens(rules, texts):
    tokenizer = tokenizer_of(rules)
    rows = tokenizer(texts)
    assert rows == [tokenizer(text).tolist() for text in texts], "in a batch as alone"
    assert tokenizer.detokenize(rows) == texts
    assert all(0 <= token < tokenizer.vocabulary_size() for row in rows for token in row)
    spaced = tokenizer_of(rules, add_prefix_space=True)
    for text in texts:
        # Behind a special token a space is added too.
        if "<" not in text:
            assert spaced.detokenize(spaced(text)) in (text, " " + text)


@examples(150)
@given(merges(), st.lists(ANY_STRING, min_size=1, max_size=3), st.integers(2, 9), st.integers(2, 9))
@example([], ["x" * 300_000, "\0", ""], 2, 9)
def test_any_strings_become_arrays_or_are_refused(rules, strings, source_width, target_width):
    tokenizer = tokenizer_of(rules)
    preprocessor = BartSeq2SeqLMPreprocessor(tokenizer, source_width, target_width)
    pairs = {"encoder_text": strings, "decoder_text": strings}
    refused = None
    try:
        x, y, weights = preprocessor(pairs)
    except ValueError as error:
        refused = str(error)
    assert (refused is None) == all(map(is_text, strings))
    if refused is not None:
        assert "surrogate" in refused
        return
    for stack, width in (("encoder", source_width), ("decoder", target_width)):
        ids, mask = x[f"{stack}_token_ids"], x[f"{stack}_padding_mask"]
        assert ids.shape == mask.shape == (len(strings), width)
        assert ((ids >= 0) & (ids < tokenizer.vocabulary_size())).all()
        lengths = mask.sum(axis=1)
        np.testing.assert_array_equal(mask, np.arange(width) < lengths[:, None])
        assert (ids[~mask] == 1).all()
    ends = x["encoder_token_ids"][
        np.arange(len(strings)), x["encoder_padding_mask"].sum(axis=1) - 1
    ]
    assert (ends == 2).all() and (x["encoder_token_ids"][:, 0] == 0).all()
    np.testing.assert_array_equal(y[:, :-1], x["decoder_token_ids"][:, 1:])
    np.testing.assert_array_equal(weights, y != 1)
    # Text that was cut has lost its end, nothing else.
    for text, row in zip(strings, x["encoder_token_ids"], strict=True):
        kept = tokenizer(text)[: source_width - 2]
        assert row[1 : 1 + len(kept)].tolist() == kept.tolist()


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)
SPECIAL = {"<s>": 0, "<pad>": 1, "</s>": 2, "a": 3, "b": 4, "ab": 5}


@st.composite
def files(draw, whole):
    """Bytes of a file: any, any JSON, or those of a good one with a few of them changed."""
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return draw(st.binary(max_size=80))
    if kind == 1:
        return json.dumps(draw(JSON)).encode()
    content = bytearray(whole)
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(content) - 1))
        content[place : place + draw(st.integers(0, 2))] = draw(st.binary(max_size=3))
        content = content or bytearray(b" ")
    return bytes(content)


def read_and_use(make):
    """Refused with a `ValueError`, or good for any text."""
    with contextlib.suppress(ValueError):
        tokenizer = make()
        ids = tokenizer("ab ba \0é")
        assert isinstance(tokenizer.detokenize(ids), str)


@examples(150)
@given(files(json.dumps(SPECIAL).encode()), files(b"#version: 0.2\na b\n\n"))
def test_any_vocabulary_file_is_read_or_refused(tmp_path, vocabulary, merges):
    (tmp_path / "vocab.json").write_bytes(vocabulary)
    (tmp_path / "merges.txt").write_bytes(merges)
    read_and_use(lambda: BartTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt")))


TOKENIZER_JSON = {
    "version": "1.0",
    "added_tokens": [
        {"id": id, "content": token, "special": True, "lstrip": False, "rstrip": False,
         "normalized": False, "single_word": False}
        for id, token in enumerate(["<s>", "<pad>", "</s>"])
    ],
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                      "use_regex": True},
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": SPECIAL, "merges": ["a b"]},
}  # fmt: skip


@examples(100)
@given(files(json.dumps(TOKENIZER_JSON).encode()))
@example(json.dumps(TOKENIZER_JSON).encode())
def test_any_tokenizer_json_is_read_or_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_bytes(content)
    read_and_use(lambda: BartTokenizer.from_preset(str(tmp_path)))
    if content == json.dumps(TOKENIZER_JSON).encode():
        assert BartTokenizer.from_preset(str(tmp_path))("ab").tolist() == [5]
