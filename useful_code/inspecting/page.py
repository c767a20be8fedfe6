"""The page of a data set: what stands out, pictures, numbers, rows to read, refused rows."""

from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from types import ModuleType

from useful_code.inspecting import examples, pairs, ratings, steps
from useful_code.inspecting.beside import beside
from useful_code.inspecting.findings import Finding, common_findings, trace_table
from useful_code.inspecting.seen import Seen
from useful_code.read_rows import RowCounts, read_rows, report_counts
from useful_code.report import Table, page_html, picture_html, table_html, tiles_html
from useful_code.user_errors import UserError

VIEWS: dict[str, ModuleType] = {"pairs": pairs, "ratings": ratings, "steps": steps}
COLUMNS = {"pairs": {"chosen", "rejected"}, "ratings": {"messages", "ratings"}, "steps": {"completions", "labels"}}


def kind_of(dataset: str, split: str | None) -> str:
    """Which kind of rows the data set holds, by the columns of its first row that could be read."""
    first = next((read.row for read in read_rows(dataset, split) if isinstance(read.row, dict)), None)
    if first is None:
        raise UserError(f"{dataset}: holds no row that can be read")
    for kind, columns in COLUMNS.items():
        if columns <= first.keys():
            return kind
    shapes = "; ".join(f"{kind} have {' and '.join(sorted(columns))}" for kind, columns in COLUMNS.items())
    raise UserError(
        f"{dataset}: the columns are {', '.join(map(repr, first))[:300]}, but {shapes}. "
        "Raw data first goes through convert_dataset.py"
    )


def findings_of(kind: str, seen: Seen, counts: RowCounts) -> list[Finding]:
    return [*common_findings(seen, counts), *VIEWS[kind].findings(seen)]


def page_of(
    kind: str,
    seen: Seen,
    counts: RowCounts,
    findings: Sequence[Finding],
    *,
    refused: str,
    num_examples: int,
    more_tables: Sequence[Table],
    folder: Path,
) -> str:
    """The page as HTML; its pictures are written to `folder`. `refused` is the part about refused rows."""
    view, show = VIEWS[kind], examples.SHOW[kind]
    parts = [
        f"<h1>{escape(counts.source)}</h1>",
        f'<p class="lead">{escape(report_counts(counts))}{_card(counts.source)}</p>',
        tiles_html(view.headline(seen)),
        "<h2>What stands out</h2>",
        *_findings(findings, seen, show),
        '<h2>Pictures</h2><div class="pictures">',
        *(picture_html(picture, folder) for picture in view.pictures(seen)),
        "</div>",
        "<h2>Numbers</h2>",
        *map(table_html, [*view.tables(seen), trace_table(seen), *more_tables]),
    ]
    drawn = seen.sample.shuffled()[:num_examples]
    parts += [f"<h2>{len(drawn):,} rows drawn at random</h2>", *map(show, drawn), "<h2>Refused rows</h2>", refused]
    return page_html(counts.source, parts, style=examples.STYLE)


def _card(dataset: str) -> str:
    cards = beside(dataset, "DATA_CARD.md")
    return f"<br>Where it comes from, and what became of every row: {escape(str(cards[0]))}" if cards else ""


def _findings(findings: Sequence[Finding], seen: Seen, show: Callable[..., str]) -> Iterator[str]:
    if not findings:
        yield '<p class="note">Nothing: none of the checks found a reason to look closer.</p>'
        return
    yield '<ul class="findings">'
    for finding in findings:
        rows = "".join(map(show, seen.traces.get(finding.trace, [])))
        fold = f"<details><summary>examples</summary>{rows}</details>" if rows else ""
        yield f"<li>{escape(finding.text)}{fold}</li>"
    yield "</ul>"
