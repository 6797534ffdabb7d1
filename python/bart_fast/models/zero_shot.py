"""Zero-shot classification by a model of entailment: which labels are true of a text.

Reference: Yin et al., 2019, "Benchmarking Zero-shot Text Classification" (arXiv:1909.00161), in the
form of transformers' pipeline `zero-shot-classification`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bart_fast._texts import as_texts
from bart_fast._validation import argument_error


def candidate_list(labels: Any) -> list[str]:
    """Labels of a list, or of a string with commas between."""
    if isinstance(labels, str):
        labels = [label.strip() for label in labels.split(",") if label.strip()]
    found, _ = as_texts("candidate_labels", labels)
    if not found:
        raise argument_error("candidate_labels", "must name one label at least", labels)
    return found


def hypotheses(template: Any, labels: list[str]) -> list[str]:
    """The sentence that each label makes."""
    rule = "must be a string with one `{}`, where the label goes"
    if not isinstance(template, str):
        raise argument_error("hypothesis_template", rule, template)
    try:
        sentences = [template.format(label) for label in labels]
    except (IndexError, KeyError, ValueError, AttributeError):
        raise argument_error("hypothesis_template", rule, template) from None
    if sentences[0] == template:
        raise argument_error("hypothesis_template", rule, template)
    return sentences


def entailment_id(label2id: Mapping[str, int]) -> int:
    """The class whose label begins with "entail"."""
    for label, number in label2id.items():
        if label.lower().startswith("entail"):
            return number
    raise ValueError(
        "the model has no class for entailment: `label2id` must have a label that begins with "
        f'"entail". Received: {dict(label2id)}.\n'
        'hint: pass `id2label=["contradiction", "neutral", "entailment"]` to `from_preset()`, in '
        "the order of the model's classes"
    )


def label_scores(logits: np.ndarray, entailment: int, multi_label: bool) -> np.ndarray:
    """Scores float64 [labels] of the logits [labels, classes] of one text.

    Labels compete for the text, and scores sum to 1; or, with `multi_label` and where there is one
    label only, each is entailed or contradicted.
    """
    logits = logits.astype(np.float64)
    if not multi_label and len(logits) > 1:
        return softmax(logits[:, entailment])
    contradiction = -1 if entailment == 0 else 0
    return softmax(logits[:, [contradiction, entailment]])[:, 1]


def softmax(x: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    weights = np.exp(x - x.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def sorted_answer(text: str, labels: list[str], scores: np.ndarray) -> dict[str, Any]:
    """The dict of a text, labels by their scores."""
    order = scores.argsort()[::-1]
    return {
        "sequence": text,
        "labels": [labels[i] for i in order],
        "scores": scores[order].tolist(),
    }
