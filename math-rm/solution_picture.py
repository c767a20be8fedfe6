"""A picture of solutions: every step on a band in the colour of its score, the true first error marked if known.

Brown is wrong, teal is right, white is undecided: colours that colour-blind people can tell apart; the score stands
beside the step too. Texts are drawn as they are: `$` starts no formula, and a character that the font lacks becomes a
hollow box. Long steps and long solutions are cut, with a line that says so.
"""

import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from useful_code.report_figures import DARK, GREY, VERMILION, new_figure
from useful_code.user_errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FONT = "DejaVu Sans Mono"  # comes with matplotlib; each character is as wide as any other
MISSING = "\u25af"
CELL, LINE, MARGIN = 0.0753, 0.165, 0.15  # inches: width of a character at 9 points, height of a line, edge
COLUMNS, TITLE_COLUMNS = 92, 100
MAX_LINES, MAX_STEPS = 8, 40
MARK = "first error"


class Solution(NamedTuple):
    """`first_error` is the true one, from 0; None: there is none, or it is not known. `note` stands below the title,
    however long that is."""

    title: str
    steps: Sequence[str]
    scores: Sequence[float]  # probabilities
    first_error: int | None = None
    note: str = ""


def solution_picture(solutions: Sequence[Solution]) -> "Figure":
    """A figure with the solutions one below the other.

    Raises UserError where a solution has more or fewer scores than steps, or a first error that is none of its steps.
    """
    from matplotlib import colormaps

    blocks = [(title_lines(solution), step_lines(solution)) for solution in solutions]
    num_lines = sum(len(title) + 1 + sum(len(lines) + 0.4 for _, lines in steps) for title, steps in blocks)
    width = 2 * MARGIN + (COLUMNS + 23) * CELL
    height = 2 * MARGIN + LINE * max(1.0, num_lines - 1)
    figure = new_figure(width, height)
    figure.set_layout_engine("none")  # everything has its place already
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(0, width), ylim=(height, 0))  # inches from the upper left corner
    axes.set_axis_off()
    right = MARGIN + (COLUMNS + 5) * CELL  # where a band ends
    top = MARGIN
    if not solutions:
        _write(axes, MARGIN, top, "no solutions", color=GREY)
    for (title, steps), solution in zip(blocks, solutions, strict=True):
        for line in title:
            _write(axes, MARGIN, top, line, weight="bold")
            top += LINE
        top += 0.3 * LINE
        for index, lines in steps:
            if index is None:  # what was left out
                _write(axes, MARGIN + 5 * CELL, top, lines[0], color=GREY)
                top += 1.4 * LINE
                continue
            score, bottom = float(solution.scores[index]), top + len(lines) * LINE
            # The two ends of the map are too dark to read on.
            color = colormaps["BrBG"](0.27 + 0.46 * score)
            edge = VERMILION if index == solution.first_error else "none"
            _band(axes, (MARGIN, top - 0.035), right - MARGIN, bottom - top + 0.04, facecolor=color, edgecolor=edge)
            _write(axes, MARGIN + 3 * CELL, top, str(index + 1), ha="right")
            for number, line in enumerate(lines):
                _write(axes, MARGIN + 5 * CELL, top + number * LINE, line)
            _write(axes, right + CELL, top, f"{score:.2f}")
            if index == solution.first_error:
                _write(axes, right + 6.5 * CELL, top, MARK, color=VERMILION, weight="bold")
            top = bottom + 0.4 * LINE
        top += 0.7 * LINE
    return figure


def title_lines(solution: Solution) -> list[str]:
    """The title, at most six lines, and the note below it.

    >>> title_lines(Solution("3 + 4?", [], [], note="[lowest score]"))
    ['3 + 4?', '[lowest score]']
    """
    parts = [(solution.title, 6), (solution.note, 2)]
    return [line for text, most in parts if text.strip() for line in wrapped(text, TITLE_COLUMNS, most)]


def step_lines(solution: Solution) -> list[tuple[int | None, list[str]]]:
    """What is drawn of a solution: (step from 0, its lines), and (None, [a note]) for steps that are left out."""
    steps, scores, first_error = solution.steps, solution.scores, solution.first_error
    if len(steps) != len(scores):
        raise UserError(f"{solution.title[:40]!r}: {len(steps)} steps, {len(scores)} scores")
    wrong = [score for score in scores if not 0 <= score <= 1]
    if wrong:
        raise UserError(f"{solution.title[:40]!r}: a step score is {wrong[0]:g}, which is no probability")
    if first_error is not None and not 0 <= first_error < len(steps):
        raise UserError(f"{solution.title[:40]!r}: its first error is step {first_error} (from 0) of {len(steps)}")
    if not steps:
        return [(None, ["no steps"])]
    blocks: list[tuple[int | None, list[str]]] = [
        (index, wrapped(step, COLUMNS, MAX_LINES)) for index, step in enumerate(steps[:MAX_STEPS])
    ]
    left_out = scores[MAX_STEPS:]
    if left_out:
        note = f"... {len(left_out)} more steps, scores from {min(left_out):.2f} to {max(left_out):.2f}"
        if first_error is not None and first_error >= MAX_STEPS:
            note += f"; the {MARK} is step {first_error + 1}"
        blocks.append((None, [note]))
    return blocks


def wrapped(text: str, num_columns: int, most: int) -> list[str]:
    """The text as lines of at most `num_columns` characters that the font has; at most `most`, the last one a note.

    >>> wrapped("one two three", 8, most=3), wrapped("a$b \\n\\u4e2d", 8, most=3)
    (['one two', 'three'], ['a$b', '▯'])
    >>> wrapped("x" * 30, 8, most=2)
    ['xxxxxxxx', '... 3 more lines']
    """
    from textwrap import wrap

    drawable = "".join(_drawable(character) for character in unicodedata.normalize("NFC", text))
    lines = [line for part in drawable.splitlines() for line in wrap(part, num_columns)] or ["(empty)"]
    if len(lines) > most:
        lines = [*lines[: most - 1], f"... {len(lines) - most + 1} more lines"]
    return lines


def _drawable(character: str) -> str:
    """The character if the font has it. Line ends stay, white space is a space, what takes no room is left out."""
    if character in "\n\r":
        return "\n"
    if character.isspace():
        return " "
    if unicodedata.category(character) in ("Cc", "Cf", "Mn", "Me"):
        return ""
    return character if ord(character) in _known_characters() else MISSING


@cache
def _known_characters() -> frozenset[int]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    faces = [get_font(findfont(FontProperties(family=FONT, weight=weight))) for weight in ("normal", "bold")]
    return frozenset.intersection(*(frozenset(face.get_charmap()) for face in faces))


def _write(axes: "Axes", left: float, top: float, text: str, **look: Any) -> None:
    # Without parse_math=False, "$5 and $6" would be set as a formula.
    style = {"color": DARK, "fontsize": 9, "family": FONT, "va": "top", "parse_math": False}
    axes.text(left, top, text, **(style | look))


def _band(axes: "Axes", place: tuple[float, float], width: float, height: float, **look: Any) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle(place, width, height, linewidth=1.8, **look))
