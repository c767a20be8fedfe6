"""One raw row (or all raw rows of a group) -> checked rows of ours, and what was refused on the way."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from useful_code.chat_pairs import check_conversation, check_pair, is_tie
from useful_code.rated_rows import check_rated
from useful_code.reasons import RowRefused
from useful_code.sources.fields import Answer, Row
from useful_code.sources.pairing import pair_of, paired
from useful_code.sources.source import Loss, Made, Source
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
    made, losses = convert_group(source, raw, options)
    return [each.row for each in made], losses


def convert_group(source: Source, raw: Sequence[Row], options: Options) -> tuple[list[Made], list[Loss]]:
    """`checked_rows`, with the places of the raw rows. Every place is in something that was made or lost."""
    losses: list[Loss] = []
    try:
        make = _of_answers if source.kind == "answers" else _converted
        converted = list(make(source, raw, options))
    except RowRefused as refused:
        return [], [Loss((place,), refused) for place in range(len(raw))]
    kept = []
    for each in converted:
        if isinstance(each, Loss):
            losses.append(each)
            continue
        row = each.row
        try:
            if source.scales is not None:
                row = {**row, "scales": {name: list(source.scales[name]) for name in row["ratings"]}}
            row = CHECKS[source.kind](row)
            if source.kind in ("pairs", "answers"):
                _apply(options, row)
            for key in ("subset", "source_id"):
                if row.get(key):
                    row[key] = valid_text(row[key])
            kept.append(Made(row, each.places))
        except RowRefused as refused:
            losses.append(Loss(each.places, refused))
    if converted and len(raw) == 1:
        return kept, losses
    told = {place for each in converted for place in each.places}
    reason = "left_out_by_rule" if source.kind != "answers" else "not_drawn" if kept else "single_answer"
    return kept, losses + [Loss((place,), RowRefused(reason)) for place in range(len(raw)) if place not in told]


def valid_text(text: str) -> str:
    """The text with lone surrogates written out, so that it can be stored as UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def as_text(value: Any) -> str | None:
    """An identifier or subset of a row that nobody has converted, if it is a usable one.

    >>> as_text("a"), as_text(7), as_text(True), as_text("")
    ('a', '7', None, None)
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return valid_text(value) if isinstance(value, str) and value else None


def _converted(source: Source, raw: Sequence[Row], options: Options) -> list[Made | Loss]:
    if source.group_key:
        return source.convert(raw)
    made = source.convert(raw[0])
    return [Loss(_FIRST, each) if isinstance(each, RowRefused) else Made(each, _FIRST) for each in made]


_FIRST = (0,)


def _of_answers(source: Source, raw: Sequence[Row], options: Options) -> Iterator[Made | Loss]:
    """The pairs of all answers that are valid text; the other answers are losses."""
    good: list[Answer] = []
    places: list[int] = []
    for place, row in enumerate(raw):
        try:
            answers = source.convert(row)
        except RowRefused as refused:
            yield Loss((place,), refused)
            continue
        for answer in answers:
            try:
                if isinstance(answer, RowRefused):
                    raise answer
                check_conversation([*answer.prompt, {"role": "assistant", "content": answer.response}], "answer")
                good.append(answer)
                places.append(place)
            except RowRefused as refused:
                yield Loss((place,), refused)
    for chosen, rejected in paired(good, options.pairing, options.seed):
        both = dict.fromkeys((places[chosen], places[rejected]))  # one where both answers are of one row
        yield Made(pair_of(good[chosen], good[rejected]), tuple(both))
    if len(good) == 1:
        yield Loss((places[0],), RowRefused("single_answer"))


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
