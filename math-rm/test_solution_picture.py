"""The picture of a solution: every text as it is, nothing outside its place, colours and marks from the numbers."""

import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from solution_picture import MARK, MAX_LINES, MAX_STEPS, MISSING, Solution, solution_picture, step_lines, wrapped

from useful_code.report import Picture, write_report
from useful_code.report_figures import VERMILION
from useful_code.user_errors import UserError


def texts_of(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def draw(solutions):
    """The drawn figure; a warning, such as one of a glyph that the font lacks, is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = solution_picture(solutions)
        FigureCanvasAgg(figure).draw()
    return figure


def check_places(figure):
    """No text leaves the figure, and none covers another one."""
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figure.axes[0].texts if text.get_text().strip()]
    whole = figure.bbox
    for box in boxes:
        assert box.x0 >= whole.x0 and box.x1 <= whole.x1 and box.y0 >= whole.y0 and box.y1 <= whole.y1
    for i, box in enumerate(boxes):  # a box reaches a pixel or two past the ink
        for other in boxes[i + 1 :]:
            across = min(box.x1, other.x1) - max(box.x0, other.x0)
            along = min(box.y1, other.y1) - max(box.y0, other.y0)
            assert across < 2 or along < 3


def test_a_small_solution(tmp_path):
    steps = ["He has 3 * $2 = $6 and $5.", "So $\\frac{6}{2", "A: 3"]
    figure = draw([Solution("How much, in $?", steps, [0.93, 0.2, 0.04], first_error=1)])
    texts = texts_of(figure)
    assert [text for text in texts if text in steps] == steps
    assert [text for text in texts if text.startswith("0.")] == ["0.93", "0.20", "0.04"]
    assert texts.count(MARK) == 1 and texts.index(MARK) == texts.index("0.20") + 1
    assert [band.get_edgecolor() == to_rgba(VERMILION) for band in figure.axes[0].patches] == [False, True, False]
    check_places(figure)
    write_report(tmp_path, title="t", figures=[Picture("solution", figure, "One solution.")])
    assert (tmp_path / "solution.png").stat().st_size > 1000


def test_colours_follow_the_scores():
    """Wrong is brown (more red than blue), right is teal (more blue), undecided is nearly grey."""
    figure = draw([Solution("", ["a", "b", "c"], [0.0, 0.5, 1.0])])
    (wrong, undecided, right) = (band.get_facecolor() for band in figure.axes[0].patches)
    assert wrong[0] - wrong[2] > 0.3 and right[2] - right[0] > 0.2 and max(undecided[:3]) - min(undecided[:3]) < 0.03
    assert MARK not in texts_of(figure)


def test_long_steps_and_solutions_are_cut_and_say_so():
    steps = ["word " * 2000, *(f"step {i}" for i in range(70))]
    scores = [0.5] * 70 + [0.25]
    figure = draw([Solution("t" * 5000, steps, scores, first_error=60)])
    texts = texts_of(figure)
    assert texts[-1] == f"... {71 - MAX_STEPS} more steps, scores from 0.25 to 0.50; the first error is step 61"
    assert len(figure.axes[0].patches) == MAX_STEPS
    assert len(step_lines(Solution("", steps, scores))[0][1]) == MAX_LINES
    assert any(text.startswith("... ") and text.endswith("more lines") for text in texts)
    check_places(figure)


@pytest.mark.parametrize("title", ["", "3 + 4?", "many words " * 200, "a line\n" * 50])
def test_the_note_is_drawn_however_long_the_title_is(title):
    figure = draw([Solution(title, ["a"], [0.5], note="[by the model: first error at step 1]")] * 2)
    texts = texts_of(figure)
    assert texts.count("[by the model: first error at step 1]") == 2
    assert sum(text.startswith("... ") for text in texts) == (2 if len(title) > 100 else 0)
    check_places(figure)


def test_what_the_font_lacks_is_a_box_and_what_takes_no_room_is_gone():
    assert wrapped("é e\u0301 中 😀 a\u200bb\tc \x00 \ud800 π≤", 80, 5) == [
        f"é é {MISSING} {MISSING} ab c  {MISSING} π≤"
    ]
    assert wrapped("one\r\n\ntwo", 80, 5) == ["one", "two"]
    assert wrapped(" ", 80, 5) == ["(empty)"]
    assert all(len(line) <= 8 for line in wrapped("a bb " * 20 + "c" * 30, 8, 50))


nasty = st.text(st.characters() | st.sampled_from("$\\{}_^%&#\n\t中é\ud800"), max_size=120)


@settings(max_examples=15)
@given(st.lists(st.tuples(nasty, st.floats(0, 1)), max_size=6), nasty, st.data())
def test_any_text_is_drawn_inside_the_figure(pairs, title, data):
    steps, scores = [step for step, _ in pairs], [score for _, score in pairs]
    first_error = data.draw(st.none() | st.integers(0, len(steps) - 1)) if steps else None
    check_places(draw([Solution(title, steps, scores, first_error)] * 2))


def test_nothing_to_draw():
    assert texts_of(draw([])) == ["no solutions"]
    assert texts_of(draw([Solution("Empty", [], [])])) == ["Empty", "no steps"]


@pytest.mark.parametrize(
    ("steps", "scores", "first_error", "said"),
    [
        (["a", "b"], [0.5], None, "2 steps, 1 scores"),
        (["a"], [1.5], None, "1.5, which is no probability"),
        (["a"], [float("nan")], None, "nan, which is no probability"),
        (["a"], [0.5], 1, "step 1 .from 0. of 1"),
        ([], [], 0, "step 0 .from 0. of 0"),
    ],
)
def test_what_is_refused(steps, scores, first_error, said):
    with pytest.raises(UserError, match=said):
        solution_picture([Solution("Title", steps, scores, first_error)])
