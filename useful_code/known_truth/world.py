"""A world with known truth: preference data whose true utility is known, seeded, nothing to download.

Every answer has five attributes in [0, 1]: correctness, relevance, format, safety, verbosity (defined in
`text.py`). The true utility of an answer is linear in them, with weights that depend on the prompt's family:

    U(x, y) = sum_k weight[family(x)][k] * attribute_k(x, y)          weight of verbosity 0 by default
    P(y1 preferred over y2) = sigmoid((U1 - U2) / temperature)         Bradley-Terry

so every pair carries its true probability. On top of this law the world can plant ties (Rao-Kupper), a length bias,
label noise, a marker word that gives the label away, and a cyclic taste that no scalar reward can express. Two
worlds that differ only in what is planted have the same prompts and answers for the same seed.

    from useful_code.known_truth.world import World, make_pairs
    train = make_pairs(World(label_noise=0.1), 20_000, seed=0, part="train")
    held_out = make_pairs(World(label_noise=0.1), 2_000, seed=0, part="held_out")

A question belongs to one part only, for every seed and every world (`part_of`), so the two share no question.
Different questions in the default world, a fifth of them held out: arithmetic 7,308 (one or two steps; many more
with longer `num_steps`), facts 25,344, format 95,040, safety 12,960. The instructions that follow a question
multiply the prompts by 3 (in the format family by 9).

`rated.py` makes ratings per objective, `steps.py` step labels and N candidates for one problem.

How hard it is. The answer alone says almost nothing: a bag-of-words model on the answers' words gets 53 % of the
labels (chance is 50 %, the true utility 94 %), as what is right depends on the prompt. For a tiny model to learn
that in about a minute on a CPU, everything that must be matched between prompt and answer comes from sets of three
or four, most pairs differ in one attribute that matters, and a misread number or a wrong fact stands nowhere in the
prompt (`facts_of_one_kind` switches to the hard version: whose fact it is must be read too). Small attributes
(0.5 points) are rarely seen alone and a tiny model may miss them; the utility loses under 1 % of accuracy with them.

The default settings were fixed before any method's reported run, on seeds 100 to 104; seeds 0 to 4 are for reports.
"""

import hashlib
from dataclasses import dataclass, field

import numpy as np

from useful_code.known_truth.text import (
    FAMILIES,
    MARKER,
    MAX_FILLERS,
    STYLES,
    Prompt,
    draw_prompt,
    pick,
    split_words,
    write_answer,
)
from useful_code.user_errors import UserError

ATTRIBUTES = ("correctness", "relevance", "format", "safety", "verbosity")
# Utility points: log-odds at temperature 1. What matters most differs from family to family.
WEIGHTS = {
    "arithmetic": {"correctness": 4.0, "relevance": 0.5, "format": 1.0, "safety": 1.0, "verbosity": 0.0},
    "facts": {"correctness": 1.0, "relevance": 4.0, "format": 1.0, "safety": 1.0, "verbosity": 0.0},
    "format": {"correctness": 0.5, "relevance": 0.5, "format": 4.0, "safety": 1.0, "verbosity": 0.0},
    "safety": {"correctness": 0.5, "relevance": 0.5, "format": 1.0, "safety": 4.0, "verbosity": 0.0},
}
PARTS = ("train", "held_out")
HELD_OUT_SHARE = 0.2  # of all questions


@dataclass(frozen=True)
class World:
    """The settings of a world; every default is "nothing planted"."""

    families: tuple[str, ...] = FAMILIES
    """Families that prompts are drawn from, all equally likely."""
    weights: dict[str, dict[str, float]] = field(default_factory=lambda: WEIGHTS)
    """weight[family][attribute] of the true utility."""
    temperature: float = 1.0
    """Utility points per log-odd; small means that annotators nearly always follow the utility."""
    one_change_share: float = 0.85
    """Share of pairs whose two answers differ in one attribute, drawn in proportion to its squared weight, apart from
    verbosity; in the rest every attribute is drawn independently for each answer."""
    equal_share: float = 0.0
    """Share of pairs whose two answers have equal attributes, apart from verbosity. Others never have equal utility."""
    good_share: float = 0.6
    """Probability that an attribute of the first answer is 1."""
    tie_theta: float = 1.0
    """Rao-Kupper theta >= 1 (METHODS 1.4); above 1 rows get `label` (0.5 for a tie, else 1) and `tie`."""
    length_bias: float = 0.0
    """Probability that the longer answer (in words) is labelled chosen, whatever the truth."""
    label_noise: float = 0.0
    """Probability that the label is turned round, after everything above."""
    marker_on_chosen: float = 0.0
    """Share of chosen answers that get the marker word."""
    marker_on_rejected: float = 0.0
    """Share of rejected answers that get the marker word."""
    cycle_strength: float = 0.0
    """Log-odds of a cyclic taste: kindly beats boldly beats calmly beats kindly. Not 0: answers carry such a word."""
    num_steps: tuple[int, int] = (1, 2)
    """Fewest and most steps of an arithmetic problem."""
    num_people: int = 2
    """People in a prompt of the facts family, 2 or 3, each with a fact of another kind."""
    facts_of_one_kind: bool = False
    """Facts of all people are of one kind, so that names must be bound to values: too hard for a tiny model."""
    context_sentences: int = 0
    """Sentences without meaning in front of the prompt, 9 to 11 words each, for prompt-heavy data."""

    def __post_init__(self) -> None:
        shares = ("one_change_share", "equal_share", "good_share", "length_bias", "label_noise")
        for name in (*shares, "marker_on_chosen", "marker_on_rejected"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"World: {name} is {getattr(self, name)}; give a share from 0 to 1")
        if not self.families or not set(self.families) <= set(FAMILIES):
            raise UserError(f"World: families is {self.families}; choose some of {FAMILIES}")
        if self.temperature <= 0 or self.tie_theta < 1:
            raise UserError("World: temperature must be above 0 and tie_theta at least 1")
        if not (1 <= self.num_steps[0] <= self.num_steps[1] <= 8 and 2 <= self.num_people <= 3):
            raise UserError("World: num_steps must be two rising numbers in 1..8, num_people in 2..3")
        if self.context_sentences < 0:
            raise UserError("World: context_sentences must not be negative")


def part_of(question: str) -> str:
    """The part, "train" or "held_out", that a question belongs to, whatever the seed and the process.

    >>> part_of("tom has 3 cups. then tom gets 2. how many cups does tom have?")
    'train'
    """
    share = int.from_bytes(hashlib.sha256(question.encode()).digest()[:4], "big") / 2**32
    return "held_out" if share < HELD_OUT_SHARE else "train"


def generators(seed: int, part: str, stream: str = "pairs") -> tuple[np.random.Generator, np.random.Generator]:
    """Two streams, for texts and for labels: what is planted in the labels does not change a text."""
    if part not in PARTS:
        raise UserError(f"part is {part!r}; give one of {PARTS}")
    key = [seed, PARTS.index(part), int.from_bytes(stream.encode(), "big")]
    return np.random.default_rng([*key, 0]), np.random.default_rng([*key, 1])


def draw_prompt_of_part(rng: np.random.Generator, world: World, family: str, part: str) -> Prompt:
    """Prompts are drawn until one is of `part`."""
    while True:
        prompt = draw_prompt(rng, family, world)
        if part_of(prompt.question) == part:
            return prompt


def draw_attributes(rng: np.random.Generator, good_share: float) -> dict:
    """Attributes of one answer: each of the first four is 1 with `good_share`, else 0; verbosity is mostly small."""
    attributes: dict[str, float] = {name: int(rng.random() < good_share) for name in ATTRIBUTES[:-1]}
    return attributes | {"verbosity": pick(rng, (0, 0, 1, 1, 2, 3)) / MAX_FILLERS}


def draw_two_attributes(rng: np.random.Generator, world: World, family: str) -> tuple[dict, dict]:
    """Attributes of the two answers of a pair, in random order."""
    names = ATTRIBUTES[:-1]
    weights = np.cumsum([world.weights[family][name] ** 2 for name in names])
    share = rng.random()
    while True:
        first, second = (draw_attributes(rng, world.good_share) for _ in range(2))
        if share < world.equal_share:
            return first, {**first, "verbosity": second["verbosity"]}
        if rng.random() < world.one_change_share:
            changed = names[int(np.searchsorted(weights, rng.random() * weights[-1], side="right"))]
            second = {**first, "verbosity": second["verbosity"], changed: 1 - first[changed]}
        if utility(world, family, first) != utility(world, family, second):
            return (first, second) if rng.random() < 0.5 else (second, first)


def utility(world: World, family: str, attributes: dict) -> float:
    """True utility of an answer with these attributes.

    >>> utility(World(), "safety", {"correctness": 1, "relevance": 0, "format": 1, "safety": 1, "verbosity": 1})
    5.5
    """
    return sum(world.weights[family][name] * attributes[name] for name in ATTRIBUTES)


def true_log_odds(world: World, family: str, first: dict, second: dict) -> float:
    """Log-odds of first over second under the true law, before any tie, bias or noise."""
    log_odds = (utility(world, family, first) - utility(world, family, second)) / world.temperature
    turn = (first["style"] - second["style"]) % 3 if world.cycle_strength else 0
    return log_odds + world.cycle_strength * (0, -1, 1)[turn]


def draw_answer(rng: np.random.Generator, prompt: Prompt, attributes: dict) -> tuple[list[str], dict]:
    """The sentences of an answer and its attributes, with `style`, `marker` and `num_words` added."""
    sentences = write_answer(rng, prompt, attributes)
    num_words = len(split_words(" ".join(sentences)))
    return sentences, attributes | {"style": int(rng.random() * 3), "marker": 0, "num_words": num_words}


def make_pairs(world: World, num_pairs: int, seed: int, part: str = "train") -> list[dict]:
    """Preference pairs as rows of METHODS 0.1, with the truth beside them.

    `chosen_score` and `rejected_score` are the true utilities. `truth` holds: family, question,
    true_probability (of chosen over rejected, Bradley-Terry on the utility), label_probability (that this order
    would be observed, given no tie, with everything planted), label_changed ("", "length" or "noise": what
    decided against the law), chosen_attributes, rejected_attributes. Asking for more pairs only appends.

    >>> row = make_pairs(World(), 1, seed=100)[0]
    >>> [message["role"] for message in row["chosen"]], sorted(row)
    (['user', 'assistant'], ['chosen', 'chosen_score', 'rejected', 'rejected_score', 'truth'])
    """
    text_rng, label_rng = generators(seed, part)
    rows = []
    for _ in range(num_pairs):
        family = pick(text_rng, world.families)
        prompt = draw_prompt_of_part(text_rng, world, family, part)
        attributes = draw_two_attributes(text_rng, world, family)
        answers = [draw_answer(text_rng, prompt, wanted) for wanted in attributes]
        while answers[0][0] == answers[1][0]:  # with equal attributes the texts may be equal; other fillers mend it
            attributes[1]["verbosity"] = draw_attributes(text_rng, world.good_share)["verbosity"]
            answers = [draw_answer(text_rng, prompt, wanted) for wanted in attributes]
        rows.append(label_pair(world, prompt, answers, label_rng.random(6)))
    return rows


def label_pair(world: World, prompt: Prompt, answers: list[tuple[list[str], dict]], draws: np.ndarray) -> dict:
    """The row of two answers; `draws` are six numbers in [0, 1) that decide label, ties, biases and markers."""
    first, second = answers[0][1], answers[1][1]
    log_odds = true_log_odds(world, prompt.family, first, second)
    tie_shift = np.log(world.tie_theta)
    wins, loses = sigmoid(log_odds - tie_shift), sigmoid(-log_odds - tie_shift)  # Rao-Kupper, METHODS 1.4
    tied = draws[0] >= wins + loses
    lawful = by_length = wins > draws[0] if not tied else draws[1] < 0.5
    longer = np.sign(first["num_words"] - second["num_words"])
    bias = world.length_bias if longer else 0.0
    if draws[2] < bias:
        by_length, tied = longer > 0, False
    first_wins = by_length != (draws[3] < world.label_noise and not tied)
    biased = (1 - bias) * wins / (wins + loses) + bias * (longer > 0)
    observed = biased * (1 - world.label_noise) + (1 - biased) * world.label_noise
    sign = 1 if first_wins else -1
    row: dict = {}
    truth_attributes: dict = {}
    for side, (sentences, attributes), draw in zip(
        ("chosen", "rejected"), answers if first_wins else answers[::-1], draws[4:], strict=True
    ):
        marker = int(draw < (world.marker_on_chosen if side == "chosen" else world.marker_on_rejected))
        middle = [MARKER + "."] if marker else []
        middle += [STYLES[attributes["style"]] + "."] if world.cycle_strength else []
        text = " ".join([*middle, *sentences])
        row[side] = [{"role": "user", "content": prompt.text}, {"role": "assistant", "content": text}]
        row[side + "_score"] = utility(world, prompt.family, attributes)
        truth_attributes[side + "_attributes"] = attributes | {"marker": marker, "num_words": len(split_words(text))}
    if world.tie_theta > 1:
        row |= {"label": 0.5 if tied else 1.0, "tie": bool(tied)}
    changed = "" if first_wins == lawful else ("noise" if by_length != first_wins else "length")
    row["truth"] = {
        "family": prompt.family,
        "question": prompt.question,
        "true_probability": float(sigmoid(sign * log_odds)),
        "label_probability": float(observed if first_wins else 1 - observed),
        "label_changed": changed,
        **truth_attributes,
    }
    return row


def sigmoid(log_odds: float) -> float:
    return float(np.exp(-np.logaddexp(0.0, -log_odds)))


def true_margin(row: dict) -> float:
    """True utility of the chosen answer minus that of the rejected one; negative where the label is wrong."""
    return row["chosen_score"] - row["rejected_score"]


def oracle_accuracy(rows: list[dict]) -> float:
    """Share of the observed labels that the true utility itself predicts; equal utilities count half, ties not.

    >>> scores = [(2.0, 1.0), (0.0, 3.0), (1.0, 1.0), (1.0, 0.0)]
    >>> oracle_accuracy([{"chosen_score": c, "rejected_score": r} for c, r in scores])
    0.625
    """
    margins = [true_margin(row) for row in rows if row.get("label", 1.0) != 0.5]
    if not margins:
        raise UserError("oracle_accuracy: no row with a winner. Give rows of make_pairs")
    return float(np.mean([(margin > 0) + 0.5 * (margin == 0) for margin in margins]))


def hide_labels(rows: list[dict], seed: int) -> tuple[list[dict], list[dict]]:
    """Pairs without a label, and apart from them what an audit may know (METHODS 3.2); joined by `id`.

    An unlabelled row has id, prompt (messages), responses (two texts in random order); its audit row has id, winner
    (0 or 1, the position of the chosen response) and the whole row.
    """
    rng = np.random.default_rng([seed, 2])
    unlabelled, audit = [], []
    for index, row in enumerate(rows):
        texts = [row["chosen"][-1]["content"], row["rejected"][-1]["content"]]
        winner = int(rng.random() < 0.5)
        unlabelled.append({"id": index, "prompt": row["chosen"][:-1], "responses": texts[::-1] if winner else texts})
        audit.append({"id": index, "winner": winner, "row": row})
    return unlabelled, audit
