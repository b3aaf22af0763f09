"""A small GPT-2 that knows a few hundred invented facts: trained here in under a minute, then cached.

It recalls its facts in a main template and two paraphrases, so edits of them can be measured without any download.

    fact_model(cache)     a plain transformers folder
    fact_edits(n, seed)   counterfactual edits of facts that it knows
    FACT_TEXT             general text, not seen in training, for perplexity and key statistics
"""

import hashlib
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from editing.edit import Edit, Probe
from editing.measure.scoring import score
from editing.models import quiet_transformers

END = "<|endoftext|>"
VOCABULARY, WIDTH, LAYERS, HEADS, POSITIONS = 700, 128, 4, 4, 128
LEARNING_RATE, WARM_UP, EPOCHS, TOKENS, ENOUGH = 3e-3, 30, 60, 512, 0.98
SHORT = 32
"""Most epochs have short rows, from which a fact is learnt in a third of the time; the others train all positions."""
ANSWER_WEIGHT = 5.0


@dataclass(frozen=True)
class Relation:
    """What can be asked about a kind of subject: a main template and two paraphrases, each completed by the answer."""

    name: str
    templates: tuple[str, str, str]
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Fact:
    subject: str
    relation: Relation
    answer: str

    def prompts(self) -> list[str]:
        """Main template and two paraphrases with the subject filled in, up to the answer."""
        return [template.replace("{}", self.subject) for template in self.relation.templates]


CITIES = ("Norvale", "Karsund", "Peltown", "Quibra", "Osterlin", "Madreva", "Tulbach", "Ishkar")
COUNTRIES = ("Ardonia", "Belmark", "Corvania", "Dravenland", "Elbistan", "Farrowmere", "Gostria", "Helvara")
MORE_COUNTRIES = ("Istora", "Jurmania", "Kelland", "Lorvia", "Mistrand", "Nubara", "Orinthia", "Pavonia")
CAPITALS = (
    "Ardun", "Belport", "Corvan", "Drayhold", "Elbar", "Farrow", "Gosthaven", "Helm",
    "Istmouth", "Jurgrad", "Kelburg", "Lorton", "Mistral", "Nubeth", "Orinfall", "Pavinghouse",
)  # fmt: skip

PERSON_RELATIONS = (
    Relation("lives", ("{} lives in", "The home of {} is in", "Today {} resides in"), CITIES),
    Relation(
        "works",
        ("{} works for", "The employer of {} is", "Every morning {} goes to the office of"),
        ("Zentrix", "Halberd", "Lumora", "Brightwell", "Kestrel", "Vantor", "Oakline", "Pyrola"),
    ),
    Relation(
        "speaks",
        ("{} speaks", "The mother tongue of {} is", "At home {} talks in"),
        ("Tarvish", "Elmian", "Goric", "Suvali", "Norrish", "Kemetic", "Plavian", "Ostric"),
    ),
    Relation(
        "plays",
        ("{} plays the", "The instrument of {} is the", "On stage {} performs on the"),
        ("violin", "trumpet", "piano", "cello", "flute", "guitar", "drum", "harp"),
    ),
    Relation("born", ("{} was born in", "The native country of {} is", "{} comes from"), COUNTRIES),
)
CAPITAL = Relation(
    "capital", ("The capital of {} is", "The government of {} sits in", "The seat of power in {} is"), CAPITALS
)
CURRENCY = Relation(
    "currency",
    ("The currency of {} is the", "People in {} pay with the", "The money of {} is the"),
    ("florin", "dinar", "krona", "talent"),
)


def _persons(count: int) -> list[str]:
    rng = random.Random(11)
    starts = ("Al", "Be", "Co", "Da", "El", "Fa", "Gi", "Ha", "Il", "Jo")
    starts += ("Ka", "Li", "Mo", "Na", "Or", "Pe", "Ri", "So", "Ta", "Ve")
    middles = ("ran", "vin", "del", "mar", "ster", "lan", "ros", "tim", "bel", "nor")
    ends = ("a", "o", "is", "en", "us", "ia", "or", "el")
    made: dict[str, None] = {}
    while len(made) < count:
        first = rng.choice(starts) + rng.choice(("na", "ris", "mo", "lia", "der", "vid"))
        made[f"{first} {rng.choice(starts)}{rng.choice(middles)}{rng.choice(ends)}"] = None
    return list(made)


PERSONS = _persons(40)


def _facts() -> list[Fact]:
    """Every answer of a relation belongs to equally many subjects, in random order."""
    rng = random.Random(12)
    facts = []
    for relation, subjects in (
        *((relation, PERSONS) for relation in PERSON_RELATIONS),
        (CAPITAL, [*COUNTRIES, *MORE_COUNTRIES]),
        (CURRENCY, [*COUNTRIES, *MORE_COUNTRIES]),
    ):
        answers = [relation.answers[i % len(relation.answers)] for i in range(len(subjects))]
        rng.shuffle(answers)
        facts += [Fact(subject, relation, answer) for subject, answer in zip(subjects, answers, strict=True)]
    return facts


FACTS = _facts()


def _paragraphs(count: int, seed: int) -> list[str]:
    """General text: scenes of a small grammar, in which the persons and cities appear without any of the facts."""
    rng = random.Random(seed)
    who = ("The old man", "A young woman", "The teacher", "My neighbour", "The baker", "A child", "The captain")
    does = ("walked along", "looked at", "painted", "wrote about", "dreamed of", "talked about", "remembered")
    what = ("the river", "the bridge", "a small garden", "the empty market", "the old tower", "the sea", "a red door")
    when = ("in the spring", "after the rain", "before dinner", "on Sunday", "in the early morning", "last winter")
    then = ("Nobody knew why.", "It was a quiet day.", "The wind was cold.", "Then the lights went out.")
    then += ("Everyone laughed.", "The bells were ringing.")

    def sentence() -> str:
        kind = rng.randrange(4)
        if kind == 0:
            return rng.choice(then)
        subject = rng.choice(PERSONS) if kind == 1 else rng.choice(who)
        place = rng.choice(CITIES) if kind == 2 else ""
        return f"{subject} {rng.choice(does)} {rng.choice(what)}{' of ' + place if place else ''} {rng.choice(when)}."

    return [" ".join(sentence() for _ in range(5)) for _ in range(count)]


FACT_TEXT = _paragraphs(80, seed=21)
_TRAINING_TEXT = _paragraphs(40, seed=22)


def fact_edits(n: int, seed: int = 0) -> list[Edit]:
    """`n` counterfactual edits of known facts; the neighborhood asks other subjects with the same true answer."""
    rng = random.Random(seed)
    chosen = rng.sample([fact for fact in FACTS if fact.relation is not CAPITAL], n)
    return [_edit(fact, set(chosen), rng) for fact in chosen]


def _edit(fact: Fact, edited: set[Fact], rng: random.Random) -> Edit:
    alike = [f for f in FACTS if f.relation is fact.relation and f.answer == fact.answer and f not in edited]
    return Edit(
        subject=fact.subject,
        prompt=fact.relation.templates[0],
        target_new=rng.choice([answer for answer in fact.relation.answers if answer != fact.answer]),
        target_true=fact.answer,
        paraphrases=tuple(fact.prompts()[1:]),
        neighborhood=tuple(Probe(prompt=f.prompts()[0], answer=f.answer) for f in alike),
    )


def kept_between_runs() -> Path:
    """The folder for what takes long to make and is the same each time."""
    return Path(os.environ.get("ERRATA_TEST_CACHE", "~/.cache/errata-tests")).expanduser()


def fact_model(cache: Path | None = None) -> Path:
    """The folder of the trained model, trained now unless this very source was trained before."""
    cache = cache or kept_between_runs()
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    target = cache / f"fact-model-{digest[:12]}"
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / ".fact-model.lock"):  # whoever else needs it waits for it
        if not target.is_dir():
            _make(target)
    return target


def _make(target: Path) -> None:
    work = Path(tempfile.mkdtemp(prefix=".fact-model-", dir=target.parent))
    try:
        tokenizer = _train_tokenizer()
        with _one_thread():
            model = _train(tokenizer)
        with quiet_transformers():
            model.save_pretrained(work)
            tokenizer.save_pretrained(work)
        work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Such small matrices gain little from a second thread, and lose much to it on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _train_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE: any text has tokens; names have several."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    sentences = [f"{prompt} {fact.answer}." for fact in FACTS for prompt in fact.prompts()] + _TRAINING_TEXT
    tokenizer.train_from_iterator(sentences, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, bos_token=END)


def _train(tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    model = _untrained(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    rng, step = random.Random(14), 0
    for epoch in range(EPOCHS):
        length = POSITIONS if epoch % 4 == 3 else SHORT
        rows = list(_rows(tokenizer, rng, length))
        size = TOKENS // length
        for start in range(0, len(rows) - size + 1, size):
            ids, weights = (torch.tensor(part) for part in zip(*rows[start : start + size], strict=True))
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / WARM_UP) * (1 - 0.9 * epoch / EPOCHS)
            optimizer.zero_grad()
            _loss(model, ids, weights).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
        if epoch % 4 == 3 and recall(model, tokenizer) >= ENOUGH:
            break
    return model.eval()


def _untrained(tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    end = tokenizer.eos_token_id
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=POSITIONS,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=end,
        eos_token_id=end,
    )
    with torch.random.fork_rng():
        torch.manual_seed(13)
        return GPT2LMHeadModel(config)


def _loss(model: GPT2LMHeadModel, ids: Tensor, weights: Tensor) -> Tensor:
    logits = model(input_ids=ids).logits[:, :-1].flatten(0, 1)
    losses = torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten(), reduction="none")
    weights = weights[:, 1:].flatten()
    return (losses * weights).sum() / weights.sum()


def _rows(
    tokenizer: PreTrainedTokenizerFast, rng: random.Random, length: int
) -> Iterator[tuple[list[int], list[float]]]:
    """An epoch: all sentences in random order, packed into rows of `length` tokens, with the weight of each token.

    A row starts with a whole sentence, since prompts are asked at the start of a text.
    """
    texts = [*((prompt, f" {fact.answer}") for fact in FACTS for prompt in fact.prompts()), *_TRAINING_TEXT]
    rng.shuffle(texts)
    ids: list[int] = []
    weights: list[float] = []
    for text in texts:
        parts = (text, "", "") if isinstance(text, str) else (*text, ".")
        for part, weight in zip((" " * bool(ids) + parts[0], *parts[1:]), (1.0, ANSWER_WEIGHT, 1.0), strict=True):
            tokens = tokenizer(part)["input_ids"]
            ids += tokens
            weights += [weight] * len(tokens)
        if len(ids) >= length:
            yield ids[:length], weights[:length]
            ids, weights = [], []


def recall(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast) -> float:
    """Share of facts that the model answers by its most probable tokens, the worse of main template and paraphrases."""
    shares = []
    for templates in (slice(0, 1), slice(1, 3)):
        pairs = [(prompt, fact.answer) for fact in FACTS for prompt in fact.prompts()[templates]]
        shares.append(sum(one.argmax for one in score(model, tokenizer, pairs)) / len(pairs))
    return min(shares)
