"""Train the vocabulary: a byte-level BPE of 8,000 pieces, with BART's special tokens first.

The pieces are learned from clean sentences and from careless versions of them, so that lower case
and common misspellings cost few pieces as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random

from noise import Noise

SIZE = 8000
SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def texts_to_learn_from(sentences: Iterable[str], noise: Noise, seed: int) -> Iterator[str]:
    """Every sentence as it is, and for one in two a careless version as well."""
    random = Random(seed)
    for sentence in sentences:
        yield sentence
        if random.random() < 0.5:
            yield noise.draw(sentence, random)


def train_vocabulary(texts: Iterable[str], folder: Path, size: int = SIZE) -> None:
    """Write ``vocabulary.json`` and ``merges.txt`` of a new vocabulary into `folder`.

    The special tokens get the ids 0 to 4. Files appear under their names only when complete.
    """
    try:
        from tokenizers import ByteLevelBPETokenizer
    except ImportError as error:
        raise SystemExit(
            "training the vocabulary needs the package tokenizers\nhint: pip install tokenizers"
        ) from error
    learner = ByteLevelBPETokenizer()
    learner.train_from_iterator(
        texts, vocab_size=size, min_frequency=2, special_tokens=SPECIAL_TOKENS, show_progress=False
    )
    model = json.loads(learner.to_str())["model"]
    merges = [" ".join(m) if isinstance(m, list) else m for m in model["merges"]]
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "merges.txt", "#version: 0.2\n" + "\n".join(merges) + "\n")
    _write(folder / "vocabulary.json", json.dumps(model["vocab"], ensure_ascii=False))


def has_vocabulary(folder: Path) -> bool:
    # vocabulary.json is written last.
    return (folder / "vocabulary.json").is_file()


def _write(path: Path, text: str) -> None:
    beside = path.with_name(path.name + ".part")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
