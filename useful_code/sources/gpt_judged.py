"""Answers of named models that GPT-4 compared (AlpacaEval) or scored (MT-Bench)."""

from collections.abc import Sequence
from typing import Any

from useful_code.chat_pairs import check_conversation
from useful_code.reasons import RowRefused
from useful_code.sources.fields import Answer, Row, ask, chat, field, number, one_of, source_id, text
from useful_code.sources.judged import EVALUATION, TIE, compared, joined_ids
from useful_code.sources.source import Loss, Made, Source

_HARD, _WEIGHTED = "alpaca_eval_gpt4", "weighted_alpaca_eval_gpt4_turbo"


def alpaca_eval(rows: Sequence[Row]) -> list[Made | Loss]:
    """AlpacaEval (tatsu-lab/alpaca_eval): GPT-4's preferences, joined with the answers of the same `id`.

    A row with `outputs` {model: text} holds the instruction and all answers, a row with `preference` one judgement of
    model_1 against model_2; both files are given as input. Judge alpaca_eval_gpt4: 1 or 2 is better, 0 or 1.5 a tie.
    Judge weighted_alpaca_eval_gpt4_turbo: 1 + the probability that model_2 is better, which becomes the label (a soft
    one, most often near 1); exactly 1.5 is a tie. A row of outputs that no preference uses is refused too.
    """
    converted: list[Made | Loss] = []
    shown: Row | None = None
    shown_at = used = 0
    for place, row in enumerate(rows):
        if _shows_outputs(row):
            try:
                if shown is not None:
                    raise RowRefused("left_out_by_rule", "an earlier row has the outputs of this id")
                field(row, "outputs", dict)
                text(row, "instruction")
                shown, shown_at = row, place
            except RowRefused as refused:
                converted.append(Loss((place,), refused))
    for place, row in enumerate(rows):
        if not _shows_outputs(row):
            try:
                converted.append(Made(_alpaca_pair(row, shown), (place, shown_at)))
                used += 1
            except RowRefused as refused:
                converted.append(Loss((place,), refused))
    if shown is not None and not used:
        converted.append(Loss((shown_at,), RowRefused("no_partner", "no usable preference for the outputs of this id")))
    return converted


def _shows_outputs(row: Row) -> bool:
    return "outputs" in row and row.get("preference") is None  # in one table of both, the other's columns are null


def _alpaca_pair(row: Row, shown: Row | None) -> Row:
    if shown is None:
        raise RowRefused("no_partner", "no usable row with the outputs of this id")
    models = field(row, "model_1", str), field(row, "model_2", str)
    for model in models:
        if shown["outputs"].get(model) is None:
            raise RowRefused("no_partner", f"no output of {model[:40]!a} for this id")
    label = None
    if one_of(row, "annotator", (_HARD, _WEIGHTED)) == _HARD:
        winner = {1: 1, 2: 2, 0: TIE, 1.5: TIE}[one_of(row, "preference", (1, 2, 0, 1.5))]
    else:
        second_is_better = _probability(row.get("preference"))
        winner = TIE if second_is_better == 0.5 else 2 if second_is_better > 0.5 else 1
        label = max(second_is_better, 1 - second_is_better)
    first, second = (text(shown["outputs"], model, "outputs.") for model in models)
    subset, identifier = source_id(shown, "dataset"), joined_ids(row, "id", "model_1", "model_2")
    prompt = ask(text(shown, "instruction"))
    return compared(prompt, first, second, winner, label=label, subset=subset, source_id=identifier)


def _probability(preference: Any) -> float:
    if isinstance(preference, bool) or not isinstance(preference, int | float) or not 1 <= preference <= 2:
        raise RowRefused("no_preference", f"preference is {str(preference)[:40]!a}, not a number from 1 to 2")
    return float(preference) - 1


def _alpaca_key(row: Row) -> str:
    key = source_id(row, "id")
    if key is None:
        raise RowRefused("missing_key", "no id, which joins outputs and preferences")
    return key


def mt_bench_single(row: Row) -> list[Answer]:
    """MT-Bench with GPT-4's single scores (lm-sys/RouteLLM's copy): 1..10, -1 where the judge gave no score.

    The answer is the last message. Only first turns make pairs: in the second turn the models have given different
    first answers, so the histories differ (`history_differs`). The judge saw a reference answer for some questions
    (another `judge_prompt`), so only scores by the same prompt are compared;
    its name is the subset.
    """
    turn = field(row, "turn", int)
    if turn != 1:
        raise RowRefused("history_differs", f"turn is {str(turn)[:40]}: every model has earlier answers of its own")
    score = number(row, "score")
    if not 1 <= score <= 10:
        raise RowRefused("not_rated" if score == -1 else "bad_rating", f"score is {score:g}, the scale is 1 to 10")
    *prompt, last = chat(row, "conversation") or [{}]
    if last.get("role") != "assistant":
        raise RowRefused("odd_length", "conversation does not end with an answer")
    name = joined_ids(row, "question_id", "model", separator=":")
    return [Answer(prompt, last["content"], score, name, subset=source_id(row, "judge_prompt"))]


def _mt_bench_key(row: Row) -> str:
    """The prompt too, so that answers to different prompts never meet."""
    parts = [source_id(row, name) for name in ("question_id", "turn", "judge_prompt")]
    if parts[0] is None:
        raise RowRefused("missing_key", "no question_id, which joins the answers to one question")
    return repr([*parts, check_conversation(chat(row, "conversation")[:-1], "conversation", ends_with="user")])


SOURCES = {
    "alpaca_eval": Source(
        "pairs",
        "tatsu-lab/alpaca_eval on GitHub, results of models joined with the judgements",
        "CC BY-NC 4.0 (data)",
        "id, instruction, dataset, outputs {model: text}; and id, model_1, model_2, annotator, preference",
        "preferences joined with outputs on id; 1, 2, a tie, or (weighted judge) label = probability; " + EVALUATION,
        alpaca_eval,
        group_key=_alpaca_key,
    ),
    "mt_bench_single": Source(
        "answers",
        "lm-sys/RouteLLM on GitHub, MT-Bench conversations and GPT-4 scores",
        "Apache-2.0",
        "question_id, turn, model, judge_prompt, score, conversation [{role, content}]",
        f"first turns: answers to a question ranked by score; {EVALUATION}",
        mt_bench_single,
        group_key=_mt_bench_key,
    ),
}
