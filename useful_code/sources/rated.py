"""Hub sets of rated answers, for multi-objective models (ArmoRM). METHODS 5.2.

The names of the objectives are ArmoRM's where it has them. Objectives of different sources stay separate even where
they are called alike, because their rubrics differ. The pairs of the same sets are in ranked.py and ready_pairs.py.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from useful_code.chat_pairs import Message
from useful_code.reasons import RowRefused
from useful_code.sources.comparisons import helpsteer_prompt
from useful_code.sources.fields import Converted, Row, ask, chat, field, number, one_of, source_id, text
from useful_code.sources.source import Source

Scales = dict[str, tuple[float, float]]


def rated(messages: list[Message], ratings: dict[str, float | None], **columns: Any) -> Row:
    """A rated row; columns that are None are left out."""
    given = {key: value for key, value in columns.items() if value is not None}
    return {"messages": messages, "ratings": ratings} | given


def answered(prompt: list[Message], response: str) -> list[Message]:
    return [*prompt, {"role": "assistant", "content": response}]


def rating(row: Row, key: str, prefix: str = "") -> float | None:
    """row[key] as a finite number; null and the text "N/A" mean that the judge gave none.

    >>> rating({"Rating": "4"}, "Rating"), rating({"Rating": "N/A"}, "Rating")
    (4.0, None)
    """
    value = row.get(key)
    if value is None or (isinstance(value, str) and value.strip() in ("", "N/A")):
        return None
    try:
        return number(row, key, prefix)
    except RowRefused as refused:
        raise RowRefused("bad_rating", refused.detail) from None


def each(items: Sequence[Any], convert: Callable[[Any], Row]) -> Converted:
    """convert(item) for each item, or why that one cannot be used: the other parts of the raw row still can."""
    if not items:
        raise RowRefused("not_rated", "the list of answers is empty")
    converted: Converted = []
    for item in items:
        try:
            converted.append(convert(item))
        except RowRefused as refused:
            converted.append(refused)
    return converted


_HELPSTEER = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def helpsteer_ratings(row: Row, name: str = "helpsteer") -> list[Row]:
    """HelpSteer (arXiv 2311.09528) or HelpSteer2 (arXiv 2406.08673): five attributes of one answer, 0 to 4 each.

    HelpSteer2's objectives have names of their own (helpsteer2-...), since its annotators had other guidelines. For
    complexity and verbosity more is not better; ArmoRM takes the influence of verbosity out of the others.
    """
    ratings = {f"{name}-{attribute}": rating(row, attribute) for attribute in _HELPSTEER}
    return [rated(answered(helpsteer_prompt(text(row, "prompt")), text(row, "response")), ratings)]


def helpsteer2_ratings(row: Row) -> list[Row]:
    """HelpSteer2, see helpsteer_ratings; its prompts may hold earlier turns."""
    return helpsteer_ratings(row, "helpsteer2")


_ULTRAFEEDBACK = ("instruction_following", "truthfulness", "honesty", "helpfulness")


def ultrafeedback_ratings(row: Row) -> Converted:
    """UltraFeedback (arXiv 2310.01377): several answers, each rated 1 to 5 on four aspects, and 1 to 10 on the whole.

    A rating is the text `annotations.<aspect>.Rating`; "N/A" where GPT-4 saw nothing to judge (honesty, for example),
    which leaves that objective without a rating. In the first release `overall_score` was 10 for some answers with low
    ratings on every aspect; the authors corrected that, so use a later release. System prompts of the answers are left
    out, as in the pairs of the same set (`ultrafeedback`).
    """
    prompt = ask(text(row, "instruction"))
    subset = source_id(row, "source")

    def convert(answer: Any) -> Row:
        completion = _object(answer, "an answer")
        ratings = {"ultrafeedback-overall_score": rating(completion, "overall_score")}
        annotations = field(completion, "annotations", dict, "completions.")
        for aspect in _ULTRAFEEDBACK:
            annotation = {} if annotations.get(aspect) is None else _object(annotations[aspect], aspect)
            ratings[f"ultrafeedback-{aspect}"] = rating(annotation, "Rating", f"completions.annotations.{aspect}.")
        return rated(answered(prompt, text(completion, "response", "completions.")), ratings, subset=subset)

    return each(field(row, "completions", list), convert)


def beavertails_ratings(row: Row) -> list[Row]:
    """BeaverTails (arXiv 2307.04657): whether an annotator called the answer safe (1) or not (0).

    Several people judged the same answer, in rows of their own, and may disagree; all are kept.
    """
    ratings: dict[str, float | None] = {"beavertails-is_safe": float(field(row, "is_safe", bool))}
    return [rated(answered(ask(text(row, "prompt")), text(row, "response")), ratings)]


def prometheus_ratings(row: Row) -> list[Row]:
    """Feedback-Collection of Prometheus (arXiv 2310.08491): an answer rated 1 to 5 by a rubric of its own.

    What the number means depends on the rubric, so its criterion joins the prompt (METHODS 11.2), in words of ours. How
    ArmoRM worded it is not known. The five descriptions of the scores are left out: they address a judge, and nobody
    who asks a question sends them along.

    >>> row = {"orig_instruction": "Greet me.", "orig_criteria": "Is it warm?", "orig_response": "Hi"}
    >>> prometheus_ratings(row | {"orig_score": "2"})[0]["messages"][0]["content"]
    'Greet me.\\n\\nThe answer will be rated by this criterion: Is it warm?'
    """
    instruction, criterion = text(row, "orig_instruction"), text(row, "orig_criteria")
    if not instruction or not criterion:
        raise RowRefused("empty_content", "orig_instruction or orig_criteria is empty or only white space")
    prompt = ask(f"{instruction}\n\nThe answer will be rated by this criterion: {criterion}")
    return [rated(answered(prompt, text(row, "orig_response")), {"prometheus-score": rating(row, "orig_score")})]


def capybara_ratings(row: Row) -> Converted:
    """Capybara-Preferences by Argilla: a judge's rating, 1 to 5, of the last answer of either side's chat.

    The scale is that of the judge's prompt (METHODS: from memory); a rating outside of it would be refused.
    """

    def convert(side: str) -> Row:
        ratings = {"argilla-overall_quality": rating(row, f"{side}_rating")}
        return rated(chat(row, side), ratings, subset=source_id(row, "source"))

    return each(("chosen", "rejected"), convert)


def orca_ratings(row: Row) -> Converted:
    """Distilabel's judgement of Intel's Orca pairs: a rating, 1 to 10, of either answer (METHODS 11.2).

    `generations` holds the two answers in the shuffled order that the judge saw, and `rating` the two ratings in the
    same order, whereas `chosen` and `rejected` stand in the order of the ratings. 42 rows have no rating. The subset
    gsm8k_train marks questions of GSM8K's training set.
    """
    system = "" if row.get("system") is None else text(row, "system")
    prompt = ask(text(row, "input"), system)
    answers, ratings = field(row, "generations", list), row.get("rating")
    if ratings is None:
        raise RowRefused("not_rated", "rating is null")
    if len(field(row, "rating", list)) != len(answers):
        raise RowRefused("bad_rating", f"{len(ratings)} ratings for {len(answers)} answers")
    subset = "gsm8k_train" if row.get("in_gsm8k_train") is True else None

    def convert(index: int) -> Row:
        places = {f"generations[{index}]": answers[index], f"rating[{index}]": ratings[index]}
        messages = answered(prompt, text(places, f"generations[{index}]"))
        return rated(messages, {"argilla-judge_lm": rating(places, f"rating[{index}]")}, subset=subset)

    return each(range(len(answers)), convert)


def distilabel_math_ratings(row: Row) -> Converted:
    """Distilabel-math by Argilla ("Argilla-Math"): either answer was rated 1 to 5 for following the instruction.

    ArmoRM puts them under UltraFeedback's objective (METHODS 5.2, index 6), so does this. The scale is UltraFeedback's,
    which the data card does not state; a rating outside of it is refused.
    """
    prompt = ask(text(row, "instruction"))

    def convert(side: str) -> Row:
        ratings = {"ultrafeedback-instruction_following": rating(row, f"{side}_rating")}
        return rated(answered(prompt, text(row, f"{side}_response")), ratings)

    return each(("chosen", "rejected"), convert)


_CODE = ("complexity", "style", "explanation", "instruction-following", "readability")


def code_ultrafeedback_ratings(row: Row) -> Converted:
    """CodeUltraFeedback (arXiv 2403.09032): four answers rated 1 to 5 on the one coding preference of the row.

    Ratings are in a list of their own and belong to the answer of the same model; of several the mean counts.
    """
    prompt = ask(text(row, "instruction"))
    name = field(row, "preference", str).strip().removeprefix("code-")
    subset = one_of({"preference": name}, "preference", _CODE)
    given: dict[str, list[float]] = defaultdict(list)
    for annotation in field(row, "annotations", list):
        if isinstance(annotation, dict) and isinstance(annotation.get("model"), str):
            value = rating(annotation, "rating", "annotations.")
            given[annotation["model"]] += [] if value is None else [value]

    def convert(answer: Any) -> Row:
        response = _object(answer, "an answer")
        model = field(response, "model", str, "responses.")
        ratings = {f"code-{subset}": fmean(given[model]) if given.get(model) else None}
        return rated(answered(prompt, text(response, "response", "responses.")), ratings, subset=subset)

    return each(field(row, "responses", list), convert)


def _object(value: Any, name: str) -> Row:
    if not isinstance(value, dict):
        raise RowRefused("wrong_type", f"{name} is {type(value).__name__}, not an object")
    return value


def scales(source: str, names: Sequence[str], low: float, high: float) -> Scales:
    return {f"{source}-{name}": (low, high) for name in names}


SOURCES = {
    "helpsteer_ratings": Source(
        "ratings",
        "nvidia/HelpSteer",
        "CC-BY-4.0",
        "prompt, response, helpfulness, correctness, coherence, complexity, verbosity",
        "five ratings, 0 to 4",
        helpsteer_ratings,
        scales=scales("helpsteer", _HELPSTEER, 0, 4),
    ),
    "helpsteer2_ratings": Source(
        "ratings",
        "nvidia/HelpSteer2",
        "CC-BY-4.0",
        "prompt, response, helpfulness, correctness, coherence, complexity, verbosity",
        "five ratings, 0 to 4, under names of their own (helpsteer2-...)",
        helpsteer2_ratings,
        scales=scales("helpsteer2", _HELPSTEER, 0, 4),
    ),
    "ultrafeedback_ratings": Source(
        "ratings",
        "openbmb/UltraFeedback",
        "MIT",
        "source, instruction, completions (list of model, response, overall_score, annotations.<aspect>.Rating)",
        "overall_score 1 to 10 and four aspects 1 to 5 of every answer; N/A is no rating",
        ultrafeedback_ratings,
        scales={"ultrafeedback-overall_score": (1, 10), **scales("ultrafeedback", _ULTRAFEEDBACK, 1, 5)},
    ),
    "beavertails_ratings": Source(
        "ratings",
        "PKU-Alignment/BeaverTails",
        "CC-BY-NC-4.0",
        "prompt, response, is_safe",
        "safe 1, unsafe 0",
        beavertails_ratings,
        scales={"beavertails-is_safe": (0, 1)},
    ),
    "prometheus_ratings": Source(
        "ratings",
        "prometheus-eval/Feedback-Collection",
        "CC-BY-4.0",
        "orig_instruction, orig_criteria, orig_response, orig_score",
        "orig_score 1 to 5; the criterion joins the prompt (our wording)",
        prometheus_ratings,
        scales={"prometheus-score": (1, 5)},
    ),
    "capybara_ratings": Source(
        "ratings",
        "argilla/Capybara-Preferences-Filtered",
        "Apache-2.0",
        "chosen, rejected (chats), chosen_rating, rejected_rating, source",
        "two rows: either chat with its rating, 1 to 5",
        capybara_ratings,
        scales={"argilla-overall_quality": (1, 5)},
    ),
    "orca_ratings": Source(
        "ratings",
        "argilla/distilabel-intel-orca-dpo-pairs",
        "Apache-2.0",
        "system, input, generations (two answers), rating (two numbers in the same order), in_gsm8k_train",
        "two rows: either answer with its rating, 1 to 10",
        orca_ratings,
        scales={"argilla-judge_lm": (1, 10)},
    ),
    "distilabel_math_ratings": Source(
        "ratings",
        "argilla/distilabel-math-preference-dpo",
        "Apache-2.0",
        "instruction, chosen_response, rejected_response, chosen_rating, rejected_rating",
        "two rows: either answer with its rating, 1 to 5, as ultrafeedback-instruction_following",
        distilabel_math_ratings,
        scales={"ultrafeedback-instruction_following": (1, 5)},
    ),
    "code_ultrafeedback_ratings": Source(
        "ratings",
        "coseal/CodeUltraFeedback",
        "MIT",
        "instruction, preference, responses (list of model, response), annotations (list of model, rating)",
        "every answer with its rating, 1 to 5, on the coding preference of the row",
        code_ultrafeedback_ratings,
        scales=scales("code", _CODE, 1, 5),
    ),
}
