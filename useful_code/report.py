"""The page that a person looks at: one `report.html` that needs nothing else, and its pictures as PNG files."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from useful_code.atomic_write import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Table(NamedTuple):
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]  # numbers are formatted by the caller; the first column is the row's name


class Picture(NamedTuple):
    name: str  # file name without .png
    figure: "Figure"
    caption: str  # what to see in it, one sentence; also the text for people who cannot see it


# White cards behind the pictures in both colour schemes, because PNG files have a white background.
STYLE = """
:root { color-scheme: light dark; --ink: #1d2329; --soft: #5b6670; --page: #f6f7f9; --card: #ffffff; --line: #dfe3e8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ec; --soft: #9aa5af; --page: #14181c; --card: #1d2328; --line: #343c44; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 2rem 1.25rem 4rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .3rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .8rem; }
.lead, .note, figcaption, caption { color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .8rem; margin: 1.4rem 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .8rem 1rem; }
.tile b { display: block; font-size: 1.45rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: .86rem; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { flex: 1 1 auto; max-width: 100%; margin: 0; background: #ffffff;
  border: 1px solid var(--line); border-radius: .6rem; padding: 1rem; }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
figcaption { color: #5b6670; font-size: .88rem; margin-top: .6rem; }
.scroll { overflow-x: auto; margin-bottom: 1.2rem; }
table { border-collapse: collapse; min-width: 24rem; background: var(--card); font-size: .93rem; }
caption { text-align: left; padding-bottom: .4rem; font-size: .9rem; }
th, td { padding: .35rem .8rem; border-bottom: 1px solid var(--line); text-align: right;
  font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .9rem; overflow-x: auto;
  font-size: .85rem; }
"""
# The browser itself is told to load nothing from anywhere.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_report(
    output_dir: str | Path,
    *,
    title: str,
    lead: str = "",
    headline: Mapping[str, str] | None = None,
    figures: Sequence[Picture] = (),
    tables: Sequence[Table] = (),
    notes: Sequence[str] = (),
    commands: str = "",
) -> Path:
    """Write `output_dir/report.html` and one PNG per figure beside it; returns the path of the page.

    Args:
        output_dir: made if it is not there.
        title, lead: the heading and one sentence below it.
        headline: a few numbers to be seen first, {what it is: "value"}.
        figures, tables, notes: shown in this order, each in the order given.
        commands: text to copy into a terminal, shown as it is.

    Everything is escaped; the page loads nothing from the network, and looks right in light and dark schemes.
    """
    output_dir = Path(output_dir)
    if len({picture.name for picture in figures}) < len(figures):
        raise ValueError("two figures have the same name")
    parts = [f"<h1>{escape(title)}</h1>"]
    if lead:
        parts.append(f'<p class="lead">{escape(lead)}</p>')
    if headline:
        parts.append(tiles_html(headline))
    if figures:
        parts.append('<h2>Pictures</h2>\n<div class="pictures">')
    parts += [picture_html(picture, output_dir) for picture in figures]
    if figures:
        parts.append("</div>")
    if tables:
        parts.append("<h2>Numbers</h2>")
    parts += [table_html(table) for table in tables]
    if commands:
        parts.append(f"<h2>Use it</h2><pre>{escape(commands)}</pre>")
    if notes:
        parts.append("<h2>Notes</h2>")
    parts += [f'<p class="note">{escape(note)}</p>' for note in notes]
    path = output_dir / "report.html"
    write_atomically(path, page_html(title, parts))
    return path


def page_html(title: str, parts: Sequence[str], style: str = "") -> str:
    """A whole page around parts of HTML; `style` is added to the common one."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def tiles_html(headline: Mapping[str, str]) -> str:
    """A few numbers to be seen first, as a part of a page."""
    tiles = (
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for name, value in headline.items()
    )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def picture_html(picture: Picture, folder: Path) -> str:
    """A picture as a part of a page; it is also written to `folder` as a PNG file."""
    png = _png(picture.figure)
    write_atomically(folder / f"{picture.name}.png", png)
    caption, data = escape(picture.caption), base64.b64encode(png).decode("ascii")
    # Shown at the size it was drawn for; the PNG has more pixels, for sharp screens and print.
    width = round(96 * picture.figure.get_figwidth())
    return (
        f'<figure><img width="{width}" alt="{caption}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    # Without the version of matplotlib in the file, equal runs give equal bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def table_html(table: Table) -> str:
    """A table as a part of a page, everything in it escaped."""
    wrong = [row for row in table.rows if len(row) != len(table.header)]
    if wrong:
        raise ValueError(f"table '{table.caption}': {len(table.header)} columns, but a row has {len(wrong[0])}")
    head = "".join(f'<th scope="col">{escape(str(cell))}</th>' for cell in table.header)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in table.rows)
    return (
        f'<div class="scroll"><table><caption>{escape(table.caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def table_text(table: Table) -> str:
    """A table for a terminal."""
    lines = [table.header, *table.rows]
    widths = [max(len(str(row[column])) for row in lines) for column in range(len(table.header))]
    return "\n".join(
        "  ".join(
            str(cell).ljust(width) if column == 0 else str(cell).rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in lines
    )
