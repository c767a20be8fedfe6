"""Sources with several scored answers to a prompt, in one row or spread over rows. METHODS 11.2.

The pipeline makes the pairs (pairing.py). An answer without a usable score is refused by itself: the others still make
their pairs.
"""

from collections import defaultdict
from collections.abc import Callable
from statistics import fmean

from useful_code.reasons import RowRefused
from useful_code.sources.comparisons import helpsteer_prompt
from useful_code.sources.fields import Answer, Row, ask, field, number, source_id, text
from useful_code.sources.html_text import text_of_html
from useful_code.sources.source import Source
from useful_code.sources.transcripts import hh_messages

Answers = list[Answer | RowRefused]


def ultrafeedback(row: Row) -> Answers:
    """UltraFeedback (arXiv 2310.01377): four answers by `fine-grained_score`, the mean of four aspect ratings.

    `overall_score` is not used: in the first release it was 10 for some answers rated 1. The answers were written
    under different system prompts (`custom_system_prompt`), which nobody who compares them is to see; they are left
    out.

    >>> row = {"instruction": "Q", "completions": [{"response": "a", "fine-grained_score": 4.25}]}
    >>> ultrafeedback(row)[0].score
    4.25
    """
    prompt, subset = ask(text(row, "instruction")), source_id(row, "source")

    def answer_of(answer: Row) -> Answer:
        return Answer(prompt, text(answer, "response"), number(answer, "fine-grained_score"), subset=subset)

    return _each(row, "completions", answer_of)


def helpsteer(row: Row) -> Answers:
    """One answer of HelpSteer (arXiv 2311.09528) or HelpSteer2 (arXiv 2406.08673), rated 0 to 4 on five attributes.

    The score is the mean of helpfulness and correctness, as in the blog mixtures of METHODS 11.1 (21,576 pairs of all
    six per prompt). How RLHFlow's "-standard" set came to 37,131 pairs is not documented.
    """
    ratings = [_rating(row, key, 0, 4) for key in ("helpfulness", "correctness")]
    return [Answer(helpsteer_prompt(text(row, "prompt")), text(row, "response"), fmean(ratings))]


def beavertails(row: Row) -> Answers:
    """BeaverTails (arXiv 2307.04657): one answer that an annotator called safe (score 1) or not (score 0).

    Many pairs of a prompt are ties, and one answer may stand in several rows, by other annotators: pairs of it with
    itself are refused as equal_responses, contradictory pairs are dropped when rows are chosen.
    """
    safe = field(row, "is_safe", bool)
    return [Answer(ask(text(row, "prompt")), text(row, "response"), float(safe))]


def stack_exchange(row: Row) -> Answers:
    """Answers on Stack Exchange (collected as in arXiv 2112.00861), with HTML turned into text.

    `pm_score` comes with the data: log2(1 + votes) rounded, 1 more for the accepted answer, -1 for negative votes. So
    many answers of a question are ties. The question is its body; the data have no title. Limit the pairs of a
    question with --max_pairs_per_prompt.
    """
    prompt = ask(text_of_html(text(row, "question"), "question"))
    metadata = row.get("metadata")
    site = metadata[0] if isinstance(metadata, list) and metadata and isinstance(metadata[0], str) else ""
    site = site.removeprefix("https://").removeprefix("http://").strip("/")

    def answer_of(answer: Row) -> Answer:
        identifier = source_id(answer, "answer_id")
        if identifier and site:
            identifier = f"{site}/a/{identifier}"  # the short address of an answer
        response = text_of_html(text(answer, "text"), "answers.text")
        return Answer(prompt, response, number(answer, "pm_score"), identifier, site or None)

    return _each(row, "answers", answer_of)


def nectar(row: Row) -> Answers:
    r"""Nectar of Berkeley: seven answers ranked by GPT-4, rank 1 the best; the score is the rank with a minus sign.

    The prompt is a transcript that ends with "\n\nAssistant: ". Rows with `good_natured` false are kept.
    """
    prompt = hh_messages(field(row, "prompt", str), "prompt")
    if prompt[-1] == {"role": "assistant", "content": ""}:
        prompt.pop()

    def answer_of(answer: Row) -> Answer:
        return Answer(prompt, text(answer, "answer"), -_rating(answer, "rank", 1))

    return _each(row, "answers", answer_of)


def code_ultrafeedback(row: Row) -> Answers:
    """CodeUltraFeedback (arXiv 2403.09032): four answers with a rating 1 to 5 on the one coding preference of the row.

    Ratings stand in a list of their own and belong to the answer of the same model (should a model have several,
    their mean counts). A rating that is no number ("N/A") refuses that answer.
    """
    prompt = ask(text(row, "instruction"))
    ratings: dict[str, list[Row]] = defaultdict(list)
    for annotation in field(row, "annotations", list):
        if isinstance(annotation, dict) and isinstance(annotation.get("model"), str):
            ratings[annotation["model"]].append(annotation)

    def answer_of(answer: Row) -> Answer:
        model = field(answer, "model", str)
        if model not in ratings:
            raise RowRefused("not_rated", f"no annotation of the answer by {model[:60]!a}")
        score = fmean(_rating(annotation, "rating", 1, 5) for annotation in ratings[model])
        return Answer(prompt, text(answer, "response"), score, subset=source_id(row, "preference"))

    return _each(row, "responses", answer_of)


def _each(row: Row, key: str, answer_of: Callable[[Row], Answer]) -> Answers:
    """The answers made of the objects in a list; what cannot be used is a `RowRefused` in its place."""
    answers: Answers = []
    for index, answer in enumerate(field(row, key, list)):
        try:
            if not isinstance(answer, dict):
                raise RowRefused("wrong_type", f"it is {type(answer).__name__}, not an object")
            answers.append(answer_of(answer))
        except RowRefused as refused:
            answers.append(RowRefused(refused.reason, f"{key}[{index}]: {refused.detail}"))
    return answers


def _rating(row: Row, key: str, low: float, high: float = float("inf")) -> float:
    rating = number(row, key)
    if not low <= rating <= high:
        raise RowRefused("bad_rating", f"{key} is {rating:g}, outside its scale {low:g}..{high:g}")
    return rating


def _by_prompt(row: Row) -> str:
    return text(row, "prompt")


SOURCES = {
    "ultrafeedback": Source(
        "answers",
        "openbmb/UltraFeedback",
        "MIT",
        "instruction, source, completions (list of response, fine-grained_score)",
        "pairs of the four answers, by fine-grained_score",
        ultrafeedback,
    ),
    "helpsteer": Source(
        "answers",
        "nvidia/HelpSteer",
        "CC-BY-4.0",
        "prompt, response, helpfulness, correctness",
        "answers of one prompt, by the mean of helpfulness and correctness",
        helpsteer,
        _by_prompt,
    ),
    "helpsteer2": Source(
        "answers",
        "nvidia/HelpSteer2 (for its preferences see helpsteer2_preference)",
        "CC-BY-4.0",
        "prompt, response, helpfulness, correctness",
        "answers of one prompt, by the mean of helpfulness and correctness",
        helpsteer,
        _by_prompt,
    ),
    "beavertails": Source(
        "answers",
        "PKU-Alignment/BeaverTails",
        "CC-BY-NC-4.0",
        "prompt, response, is_safe",
        "answers of one prompt, safe over unsafe",
        beavertails,
        _by_prompt,
    ),
    "stack_exchange": Source(
        "answers",
        "HuggingFaceH4/stack-exchange-preferences",
        "CC-BY-SA-4.0",
        "question (HTML), answers (list of text (HTML), pm_score, answer_id), metadata",
        "answers of one question, by pm_score (limit pairs with --max_pairs_per_prompt)",
        stack_exchange,
    ),
    "nectar": Source(
        "answers",
        "berkeley-nest/Nectar",
        "Apache-2.0",
        "prompt (a transcript), answers (list of answer, rank)",
        "answers of one prompt, the lower rank over the higher (limit pairs with --max_pairs_per_prompt)",
        nectar,
    ),
    "code_ultrafeedback": Source(
        "answers",
        "coseal/CodeUltraFeedback",
        "MIT",
        "instruction, preference, responses (list of model, response), annotations (list of model, rating)",
        "pairs of the answers, by rating",
        code_ultrafeedback,
    ),
}
