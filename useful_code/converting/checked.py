"""One raw row (or all raw rows of a group) -> checked rows of ours, and what was refused on the way."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from useful_code.chat_pairs import check_conversation, check_pair, is_tie
from useful_code.rated_rows import check_rated
from useful_code.reasons import RowRefused
from useful_code.sources.fields import Answer, Row
from useful_code.sources.pairing import pairs_of_answers
from useful_code.sources.source import Loss, Source
from useful_code.step_rows import check_steps

CHECKS: dict[str, Callable[[Any], Row]] = {
    "pairs": check_pair,
    "answers": check_pair,
    "ratings": check_rated,
    "steps": check_steps,
}


class Options(NamedTuple):
    """What the user chose, as far as single rows go."""

    min_gap: float | None = None  # of chosen_score - rejected_score, or of margin
    keep_ties: bool = False
    pairing: str = "all"
    seed: int = 0


AS_THEY_COME = Options()


def checked_rows(source: Source, raw: Sequence[Row], options: Options = AS_THEY_COME) -> tuple[list[Row], list[Loss]]:
    """Convert and check `raw`: one row, or all rows of one `group_key`. Never raises for what a row holds.

    >>> from useful_code.sources.transcripts import SOURCES
    >>> good = {"chosen": "\\n\\nHuman: Q\\n\\nAssistant: A", "rejected": "\\n\\nHuman: Q\\n\\nAssistant: B"}
    >>> [len(part) for part in checked_rows(SOURCES["hh_rlhf"], [good])]
    [1, 0]
    >>> checked_rows(SOURCES["hh_rlhf"], [{"chosen": 3, "rejected": "x"}])[1][0].refused.reason
    'wrong_type'
    """
    losses: list[Loss] = []
    if source.kind == "answers":
        answers, places = _answers(source, raw, losses)
        made = pairs_of_answers(answers, options.pairing, options.seed)
        if not made and (answers or not losses):
            losses += [Loss(place, RowRefused("single_answer")) for place in places or [None]]
    else:
        try:
            made = source.convert(raw if source.group_key else raw[0])
        except RowRefused as refused:
            return [], [Loss(place, refused) for place in range(len(raw))]
    kept = []
    for row in made:
        if isinstance(row, Loss):
            losses.append(row)
            continue
        try:
            if isinstance(row, RowRefused):
                raise row
            if source.scales is not None:
                row = {**row, "scales": {name: list(source.scales[name]) for name in row["ratings"]}}
            row = CHECKS[source.kind](row)
            if source.kind in ("pairs", "answers"):
                _apply(options, row)
            kept.append(row | {key: valid_text(row[key]) for key in ("subset", "source_id") if row.get(key)})
        except RowRefused as refused:
            losses.append(Loss(None, refused))
    return kept, losses


def valid_text(text: str) -> str:
    """The text with lone surrogates written out, so that it can be stored as UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _answers(source: Source, raw: Sequence[Row], losses: list[Loss]) -> tuple[list[Answer], list[int | None]]:
    """The answers that are valid text with the places of their rows; the others are losses of those rows."""
    good: list[Answer] = []
    places: list[int | None] = []
    for place, row in enumerate(raw):
        try:
            answers = source.convert(row)
        except RowRefused as refused:
            losses.append(Loss(place, refused))
            continue
        for answer in answers:
            try:
                if isinstance(answer, RowRefused):
                    raise answer
                check_conversation([*answer.prompt, {"role": "assistant", "content": answer.response}], "answer")
                good.append(answer)
                places.append(place)
            except RowRefused as refused:
                losses.append(Loss(place if len(raw) > 1 else None, refused))
    return good, places


def _apply(options: Options, row: Row) -> None:
    """Refuse a checked pair that the options leave out."""
    if is_tie(row):
        if not options.keep_ties:
            raise RowRefused("tie", "kept with --keep_ties")
        return
    if options.min_gap is not None:
        if "chosen_score" in row and "rejected_score" in row:
            gap = row["chosen_score"] - row["rejected_score"]
        elif "margin" in row:
            gap = row["margin"]
        else:
            raise RowRefused("no_margin")
        if gap < options.min_gap:
            raise RowRefused("below_min_gap", f"{gap:g} is less than {options.min_gap:g}")
