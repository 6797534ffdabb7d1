"""`generate()` for iterables of batches: the answers are those of each batch, joined."""

import numpy as np
import pytest
from tiny_models import END, PROMPT, SOURCE, TEXTS, tiny_model


class Column:
    """Strings as pandas and pyarrow hand them over."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype=object)


class Loader:
    """Batches with labels, as torch's loaders and tf.data yield them; no length, no index."""

    def __init__(self, *batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def test_strings(model):
    expected = model.generate(TEXTS)
    columns = {"encoder_text": Column(TEXTS), "decoder_text": Column([""] * len(TEXTS))}
    for inputs in (
        iter(TEXTS),
        (text for text in TEXTS),
        iter([TEXTS[:3], TEXTS[3:]]),
        Loader((TEXTS[:1], np.zeros(1)), (np.array(TEXTS[1:]), None)),
        Loader([{"encoder_text": TEXTS[:2]}], [{"encoder_text": TEXTS[2:]}]),
        [{"encoder_text": TEXTS[:2]}, {"encoder_text": TEXTS[2:]}],
        Column(TEXTS),
        columns,
        tuple(TEXTS),
    ):
        assert model.generate(inputs) == expected
    many = TEXTS * 20
    assert model.generate(iter(many)) == expected * 20
    assert model.generate(iter([])) == []


def test_token_arrays_of_different_widths(model):
    wide = {**SOURCE, **PROMPT}
    narrow = {
        name: array[:, :4] if name.startswith("decoder") else array for name, array in wide.items()
    }
    output = model.generate(Loader((wide, 1), (narrow, 2)), stop_token_ids=None)
    for name in ("decoder_token_ids", "decoder_padding_mask"):
        first = model.generate(wide, stop_token_ids=None)[name]
        second = model.generate(narrow, stop_token_ids=None)[name]
        np.testing.assert_array_equal(output[name][:2], first)
        np.testing.assert_array_equal(output[name][2:, :4], second)
    assert not output["decoder_padding_mask"][2:, 4:].any()
    bare = tiny_model(preprocessor=None)
    with pytest.raises(ValueError, match="different widths, and the pad id is not known"):
        bare.generate(Loader(wide, narrow), stop_token_ids=END)


def test_no_two_rows_draw_the_same(model):
    settings = {"do_sample": True, "temperature": 5.0, "seed": 3, "stop_token_ids": None}
    answers = model.generate(iter([["abc"] * 4, ["abc"] * 4]), **settings)
    assert len(set(answers)) == 8
    assert model.generate(iter([["abc"] * 4, ["abc"] * 4]), **settings) == answers


def test_what_cannot_be_joined_is_refused(model):
    with pytest.raises(ValueError, match="`inputs` must yield strings or token arrays, not both"):
        model.generate(Loader(TEXTS, {**SOURCE, **PROMPT}))
    with pytest.raises(ValueError, match="`return_dict_in_generate` cannot be used with"):
        model.generate(iter(TEXTS), return_dict_in_generate=True)
    with pytest.raises(ValueError, match="`seed` must be a whole number"):
        model.generate(iter(TEXTS), seed="x")
    for inputs in (3, iter([3])):
        with pytest.raises(ValueError, match="`inputs` must be a string"):
            model.generate(inputs)
