"""CounterFact's own numbers: score, magnitudes, consistency (Meng et al. 2022, https://arxiv.org/abs/2202.05262)."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from editing.edit import Edit
from editing.measure.metrics import Known, neighbor_pairs, prompt_pairs

SCORED = ("efficacy_prob", "generalization_prob", "locality_prob")
"""Efficacy, paraphrase and neighborhood score: ES, PS, NS."""
_WORD = re.compile(r"\b\w\w+\b")


def score(means: Mapping[str, float | None]) -> float | None:
    """S = 3 / (1/ES + 1/PS + 1/NS), the harmonic mean; 0 where one of them is, None where one was not measured."""
    shares = [means.get(name) for name in SCORED]
    known = [share for share in shares if share is not None]
    if len(known) < len(shares):
        return None
    return len(known) / sum(1 / share for share in known) if all(known) else 0.0


def magnitudes(edit: Edit, known: Known) -> dict[str, float]:
    """EM, PM, NM: how far apart the probabilities p = exp(mean log-probability a token) of both answers are.

    p(new) - p(old) at the prompt and at paraphrases, p(right) - p(new) at neighbors; what was not asked is left out.
    """
    places = {
        "efficacy": [prompt_pairs(edit, edit.text)],
        "generalization": [prompt_pairs(edit, prompt) for prompt in edit.paraphrases],
        "locality": [neighbor_pairs(edit, probe) for probe in edit.neighborhood],
    }
    found = {}
    for name, asked in places.items():
        sign = -1 if name == "locality" else 1
        apart = [sign * (p[0] - p[1]) for p in (_probabilities(pairs, known) for pairs in asked) if len(p) == 2]
        if apart:
            found[name] = sum(apart) / len(apart)
    return found


def _probabilities(pairs: Iterator[tuple[str, str]], known: Known) -> list[float]:
    return [math.exp(known[pair].mean_logprob) for pair in dict.fromkeys(pairs) if pair in known]


class Consistency:
    """How alike what a model writes is to reference texts, in words: RS, the cosine of their tf-idf vectors.

    A word is two or more letters or digits, in lower case. With n documents, of which df hold it, its weight is
    tf (ln((1 + n) / (1 + df)) + 1), as scikit-learn's TfidfVectorizer has it, which the authors use; words of no
    document count nothing. They take the weights from all of their snippets; here all reference texts are it.
    """

    def __init__(self, documents: Sequence[str]) -> None:
        held = Counter(word for document in documents for word in set(_words(document)))
        self._weights = {word: math.log((1 + len(documents)) / (1 + df)) + 1 for word, df in held.items()}

    def of(self, written: str, reference: str) -> float:
        """Between 0, no word in common, and 1."""
        one, other = self._vector(written), self._vector(reference)
        product = sum(value * other.get(word, 0.0) for word, value in one.items())
        norms = math.hypot(*one.values()) * math.hypot(*other.values())
        return product / norms if norms else 0.0

    def _vector(self, text: str) -> dict[str, float]:
        return {w: count * self._weights[w] for w, count in Counter(_words(text)).items() if w in self._weights}


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
