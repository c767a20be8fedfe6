r"""Final answers: where they stand, and when two are equal. By hand, and for any text."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from useful_code import expression_worker
from useful_code.answer_values import normal
from useful_code.expression_worker import equal_expressions
from useful_code.final_answers import (
    answer_classes,
    final_answer,
    gold_answer,
    is_right,
    same_answer,
    stated_answer,
    stated_before_cut,
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{1} and then \boxed{a{b}c}.", "a{b}c"),
        (r"\boxed{1} and then \boxed{2", "1"),  # never closed
        (r"We get \boxed{\{1, 2\}}", r"\{1, 2\}"),  # braces that are text
        (r"\fbox{no} \boxed{} the answer is 3", "3"),
        ("16 - 3 - 4 = 9\n9 * 2 = 18\n#### 18", "18"),
        ("#### 1,000\n\nStep 2: no", "1,000"),
        (r"\boxed{7}. The answer is 8.", "7"),  # the box comes first
        ("the answer is 5.\nTHE ANSWER IS: 6! Yes.", "6"),
        ("The answer is 3.5. Good.", "3.5"),
        (r"The final answer is $\frac{1}{2}$.", r"\frac{1}{2}"),
        ("**The answer is 42.**", "42"),
        ("Step 3: The answer is: 18 ки", "18"),
        ("The answer is:\nforty", "forty"),
        ("I know what the answer is.", None),
        ("tom has 8 eggs.", "8"),
        ("so it costs $1,200.50.", "1,200.50"),
        ("that is 10%", "10"),
        (r"that is 10\%", "10"),
        ("x=-5", "-5"),
        ("5-3", "3"),
        ("1/2 of it", "1/2"),
        (r"hence x = -\frac{3}{4}", r"-\frac{3}{4}"),
        ("1,2,3", "3"),
        ("no number", None),
        ("", None),
        ("#### Step 1: Add\n3+4=7\n\n#### Conclusion\nThe answer is 7.", "7"),
        ("#### 7\n\n#### Note\nWe added.", "7"),
        ("#### 2. Solve\nit is 9", "9"),
        ("so\n#### forty \n", "forty"),
        ("The answer is **18** dollars.", "18 dollars"),
        ("The answer is **18.** Good.", "18"),
        ("The answer is 18, since 9*2 = 18.", "18"),
        ("The answer is 18 because 3*6 = 18.", "18"),
        ("So the answer is that she makes 18 dollars.", "18 dollars"),
        ("The answer is that she has 3 tenths.", "that she has 3 tenths"),
        ("The answer is Tuesday.", "Tuesday"),
        ("The answer is therefore 18.", "18"),
        ("the answer is, thus, $18$.", "18"),
        (r"\boxed{18\$}", "18"),
        (r"\boxed{1}, no, \boxed 7.", "7"),
        (r"\boxed \frac{1}{2}", r"\frac{1}{2}"),
        ("tom ate 3 1/2 pies.", "3 1/2"),
        (r"so 1\frac{1}{2}", r"1\frac{1}{2}"),
        ("he ate 3½ pies", "3½"),
        ("he ate 1⁄2 of it", "1⁄2"),
        ("Thus the answer is verified as 137.5 degrees.\nIt has 60 minutes.", "137.5 degrees"),
        ("The answer is\n\\[\n\\frac{3\\pi}{4}.\n\\]\nDone in 2 steps.", r"\frac{3\pi}{4}"),
        ("The answer is:\n$$\nx^2+1\n$$", "x^2+1"),
        ("The answer is: \\[ x =\n5y \\], so 3 = 3.", "x = 5y"),
        ("The answer is $$x=1$$ or $$x=2$$.", "x=1$$ or $$x=2"),
        ("The answer is\n$$\n$$\nso 7", "7"),  # nothing in it
        ("it is 7\nThe answer is\n\\[\n\\frac{3", "3"),  # never closed
    ],
)
def test_the_answer_is_found(text, answer):
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    "said",
    [
        "Check: 18/2=9, so the answer is correct.",
        "Does 18 make sense? Yes, the answer is reasonable.",
        "Since 9 < 20 the answer is not wrong, but 2 ways led to it.",
        "9*2 = 18, so the answer is also consistent with the 2 hints.",
        "Therefore the answer is **right**!",
        "We ask whether the answer is even: 2 divides it.",
        "If the answer is 17, 17/2 = 9 must hold.",
        "Thus the answer is correct to 2 places",
    ],
)
def test_what_is_said_of_an_answer_is_no_answer(said):
    """Neither behind the answer nor before it: then the last number counts."""
    assert stated_answer(f"The answer is 18.\n{said}") == "18" and stated_answer(said) is None
    assert final_answer(f"{said} We compute 9*2 = 18.") == "18"
    assert answer_classes([final_answer(f"It is 18. The answer is {answer}. {said}") for answer in (18, 19)]) == [0, 1]


@pytest.mark.parametrize(
    "answer",
    "Tuesday|A|infinite|even|odd|Valid|a valid proof|right triangles|right-handed|goodness|simple interest".split("|"),
)
def test_words_that_are_answers(answer):
    assert final_answer(f"3 + 4 is 7. The answer is {answer}.") == answer


@pytest.mark.parametrize(
    "text",
    ["9*20 = 180. The answer is 1", "#### 1", "The answer is $1", r"so \boxed 1", "The answer is **1", "#### 1,2"]
    + [r"so \boxed{1", r"The answer is \[", "The answer is\n$$\n1", "The answer is that she has 18 dol", "It is 18. "],
)
def test_an_answer_that_the_cut_may_have_shortened_is_not_stated(text):
    """One that was stated earlier is."""
    assert stated_before_cut(text) is None
    assert stated_before_cut(f"The answer is 18. {text}") == "18"


@pytest.mark.parametrize(
    "text",
    [r"\boxed{18}", "#### 18\n", "#### 18\n\nNow", "The answer is 18.", "The answer is 18 ", "The answer is $18$"]
    + ["The answer is **18**", r"The answer is \(18\)", "The answer is 18 because 3*", "The answer is 18\nSo the ans"]
    + ["The answer is\n$$\n18\n$$", r"so \boxed 18.", r"\boxed 18 and", "The answer is 18. The answer is cor"],
)
def test_an_answer_with_something_behind_it_is_stated(text):
    assert stated_before_cut(text) == "18"


def test_a_number_alone_is_not_stated():
    assert stated_answer("it is 8") is None and stated_answer("#### 8") == "8"


EQUAL = [
    ("1/2", "0.5"),
    ("0.5", r"\frac{1}{2}"),
    (r"\frac12", r"\dfrac{1}{2}"),
    (r"1\frac{1}{2}", "1.5"),
    ("1 1/2", "3/2"),
    ("1,000", "1000"),
    (r"10\,000", "10000"),
    ("1{,}000", "1000"),
    ("$18", "18"),
    (r"\$18.00", "18"),
    ("18 dollars", "18"),
    (r"18\text{ dollars}", "18"),
    (r"5\text{ cm}^2", "5"),
    ("12 miles per hour", "12"),
    ("x=5", "5"),
    ("f(x) = x^2", "x^2"),
    ("50%", r"50\%"),
    ("50%", "50"),
    (r"90^\circ", "90"),
    ("−3", "-3"),
    ("1e3", "1000"),
    ("1/3", "0.333333"),
    ("2/3", "0.66666667"),
    (r"\text{Even}", "even"),
    ("(C)", r"\text{c}"),
    ("Monday", " monday "),
    ("( 1, 2 )", r"\left(1,2\right)"),
    (r"2\sqrt{3}", r"\sqrt{12}"),
    (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}"),
    ("(x+1)^2", "x^2+2x+1"),
    (r"\{1,2\}", r"\{2,1\}"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
    ("5!", "120"),
    (r"\boxed{7}", "7.0"),
    (r"9^{9^{9^9}}", "9 ^{9^{9^9}}"),  # as text
    ("18 (dollars)", "18"),
    ("18cm", "18"),
    ("18 km/h", "18"),
    (r"5\,\text{m}", "5"),
    (r"5\mathrm{ kg}", "5"),
    ("12 men", "12"),
    (r"36\pi\text{ square inches}", r"36\pi"),
    (r"36\pi square inches", r"36 \pi"),
    (r"5\sqrt{2}\text{ units}", r"5\sqrt{2}"),
    (r"25\pi\text{ cm}^2", r"25\pi"),
    (r"20^\circ C", "20"),
    (r"20^\circ\text{C}", "20"),
    ("2+3=5", "5"),
    ("2x+3y=6", "3y+2x=6"),
    (r"\angle ABC = 50^\circ", "50"),
    ("f(x, y) = x + y", "y + x"),
    ("1, 2", "2,1"),
    ("(2,1)", "2, 1"),
    (r"\{2, 1\}", "1, 2"),
    (r"1.6 \times 10^{-19}", "1.6e-19"),
    (r"1.60 \cdot 10^{-19}\text{ C}", r"16 \times 10^{-20}"),
    ("10^{3}", "1,000"),
    ("10^6", r"1\times10^{6}"),
    ("3.5", "3 1/2"),
    (r"1\frac{1}{2}", "3/2"),
    ("½", "0.5"),
    ("3½", "3.5"),
    ("1⁄2", "1/2"),
    ("x²", "x^2"),
    (r"10,\!080", "10080"),  # as MATH writes it
    (r"11,\! 111,\! 111,\! 100", "11111111100"),
    (r"\$32,\!348", "32348"),
    ("(5,5)", "5,5"),
    ("(1,1,2)", "1,1,2"),
    (r"\{2,\sqrt4\}", r"\{2\}"),
    (r"2,\sqrt{4}", "2"),
    ("x=1, x=2", "1,2"),
    (r"x=1\text{ or }x=2", "1, 2"),
    ("x=3$ or $x=4", "3,4"),
    ("3 and 4", "4, 3"),
    ("(x,y)=(1,2)", "(1,2)"),
    ("(x, y, z) = (1,2,3)", "(1,2,3)"),
    ("x = 3", "3"),
    ("4210_5", "4210_{5}"),
    (r"\frac\pi3", r"\frac{\pi}{3}"),
    ("2√3", r"2\sqrt{3}"),
    (r"\sqrt{2}", "√(2)"),
    (r"2\sqrt{3}i", r"2i\sqrt{3}"),
    (r"\frac{1+i}{2}", "0.5+0.5i"),
    (r"\approx 5", "5"),
    ("∞", r"\infty"),
]
UNEQUAL = [
    ("7", "8"),
    ("1/3", "0.33"),
    ("0.000001", "0.0000014"),
    ("50%", "0.5"),
    (r"3\pi", "3"),
    ("5 million", "5"),
    ("even", "odd"),
    ("even", "nvee"),  # a product of the same letters
    ("(1,2)", "[1,2]"),
    ("(1,2)", "(2,1)"),
    ("9^9^9", "3"),
    ("9^{9*9*9*9*9}", "3"),
    (r"100000!", "1"),
    ("a", "b"),
    (" ", " "),
    ("5/0", "5"),
    ("6xy", "6"),
    ("6xy", "6ab"),
    (r"\frac{1}{2}bh", "1/2"),
    ("2xy^2", "2"),
    ("3 tenths", "3"),
    ("3 fifths", "3"),
    ("3 squared", "3"),
    ("3 pairs", "3"),
    ("3 less", "3"),
    ("10 am", "10 pm"),
    ("10 am", "10"),
    (r"5\text{ million}", "5"),
    (r"3\text{ tenths}", "3"),
    (r"\pi r^2 h", r"\pi r^2"),
    ("3t", "3"),
    ("2m", "2"),
    (r"x \in \text{Even}", "x"),
    (r"2\sin\theta", "2"),
    ("2x+3y=6", "6"),
    ("x^2-4=0", "0"),
    ("(2,1)", "1, 2"),
    ("(1,2)", r"\{1,2\}"),
    ("[1,2)", "1,2"),
    (r"1.6 \times 10^{-19}", r"9.1 \times 10^{-31}"),
    (r"1.6 \times 10^{-19}", "0"),
    ("10^{-7}", "10^{-8}"),
    ("4210_5", "4210_6"),
    ("x=3", "y=3"),
    ("y=3", r"x=\frac{6}{2}"),
    ("x=1, y=2", "1, 2"),
    ("x=1 or x=2", "1, 3"),
    (r"1,\,200", "1200"),  # a list
    ("3i", "3"),
    ("2+i", "2-i"),
]


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_equal_answers(one, other):
    assert same_answer(one, other) and same_answer(other, one)
    assert answer_classes([one, other]) == [0, 0]


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_equal_answers_have_equal_values(one, other):
    """Votes compare only answers whose values are close: what is equal must be."""
    assert answer_classes([one, "-17.123", other]) == [0, 1, 0]


@pytest.mark.parametrize(("one", "other"), UNEQUAL)
def test_unequal_answers(one, other):
    assert not same_answer(one, other) and not same_answer(other, one)


def test_a_letter_with_an_index_is_no_number_with_a_base():
    assert [normal(text).has_base for text in ("a_1", "4210_5", "1a_{16}")] == [False, True, True]


def test_none_equals_nothing():
    assert not same_answer(None, None) and not same_answer(None, "5") and not same_answer("5", None)


@pytest.mark.parametrize(
    ("text", "gold", "right"),
    [
        ("So she makes $18 a day.", "9 * 2 = 18\n#### 18", True),
        (r"Hence \boxed{x^2+1}.", "x^2 + 1", True),  # the gold answer is not its last number
        ("it is 1", "x^2 + 1", False),
        (r"\boxed{\frac{2}{4}}", r"\frac{1}{2}", True),
        ("I cannot say", "18", False),
        ("18", "", False),
    ],
)
def test_is_right(text, gold, right):
    assert is_right(text, gold) is right


def test_a_gold_solution_without_a_mark_ends_in_its_answer():
    assert gold_answer("3 plus 2 is 5.\ntom has 5 eggs.") == "5" and gold_answer("tom") == "tom"


TEXTS = st.one_of(
    st.text(),
    st.text(alphabet=r"0123456789.,/-+^*!(){}[]\=$% x"),
    st.sampled_from([text for pair in EQUAL + UNEQUAL for text in pair]),
    st.fractions(max_denominator=50).map(str),
    st.decimals(-100, 100, places=2).map(str),
)


@given(TEXTS, TEXTS)
@settings(max_examples=150)
def test_any_two_texts_symmetric_and_reflexive(one, other):
    assert same_answer(one, other) is same_answer(other, one)
    assert same_answer(one, one) is bool(one.strip())
    assert final_answer(one) is None or final_answer(one).strip()
    assert is_right(one, other) in (True, False)


@given(st.lists(st.one_of(st.none(), TEXTS), max_size=6))
@settings(max_examples=50)
def test_classes_are_a_partition(answers):
    classes = answer_classes(answers)
    assert len(classes) == len(answers)
    for answer, number in zip(answers, classes, strict=True):
        assert (number == -1) == (answer is None or not answer.strip())
    for i, one in enumerate(answers):
        for j, other in enumerate(answers):
            if same_answer(one, other):
                assert classes[i] == classes[j] >= 0
    seen = [number for number in dict.fromkeys(classes) if number >= 0]
    assert seen == list(range(len(seen)))


@given(st.integers(-(10**6), 10**6), st.integers(1, 999))
def test_a_number_is_its_other_ways_of_writing(top, bottom):
    latex = rf"\frac{{{top}}}{{{bottom}}}"
    assert same_answer(latex, f"{top}/{bottom}") and same_answer(f"{top:,}", f"${top} ")
    assert same_answer(latex, f"{top + bottom}/{bottom}") is False
    assert final_answer(f"It makes {top:,}.") == f"{top:,}" and final_answer(f"so {latex}") == latex


def test_classes_join_by_way_of_a_third():
    """0.333333 and 0.3333334 round alike, 1/3 is not the second: all three share a class in any order."""
    answers = ["1/3", "0.3333334", "0.333333"]
    assert not same_answer(*answers[:2]) and answer_classes(answers) == answer_classes(answers[::-1]) == [0, 0, 0]


def test_it_works_in_threads():
    """math-verify's own time limit does not: an alarm belongs to the main thread."""
    found = []
    threads = [
        threading.Thread(target=lambda i=i: found.append(same_answer(rf"{i}\sqrt{{2}}", rf"\sqrt{{{2 * i * i}}}")))
        for i in range(2, 6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4


def test_the_callers_alarm_is_left_alone():
    heard = []
    before, left = signal.signal(signal.SIGALRM, lambda *_: heard.append(True)), signal.alarm(0)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        assert same_answer(r"\sqrt{99}", r"3\sqrt{11}")
        time.sleep(0.3)
        assert heard
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.alarm(left)


def test_what_takes_too_long_is_ended_and_the_next_question_is_answered(monkeypatch):
    monkeypatch.setattr(expression_worker, "SECONDS", 0.5)
    started = time.monotonic()
    assert not equal_expressions("(10^{999})^{(10^{99})}", "x+1+x")  # refused before it comes here, in real use
    assert time.monotonic() - started < 60
    assert expression_worker._worker is None
    monkeypatch.undo()
    assert equal_expressions(r"\sqrt{28}", r"2\sqrt{7}")


def test_a_worker_that_was_killed_is_replaced():
    assert equal_expressions(r"\sqrt{44}", r"2\sqrt{11}")
    os.kill(expression_worker._worker.pid, signal.SIGKILL)
    expression_worker._worker.wait()
    assert equal_expressions(r"\sqrt{52}", r"2\sqrt{13}")


def test_the_worker_ends_with_the_process_that_asked():
    program = (
        "from useful_code import expression_worker as w\n"
        r"assert w.equal_expressions(r'\sqrt{8}', r'2\sqrt{2}')" + "\nprint(w._worker.pid, flush=True)\n"
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    pid = json.loads(finished.stdout)
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if os.path.exists(f"/proc/{pid}/stat") and open(f"/proc/{pid}/stat").read().split()[2] == "Z":
            return  # ended; nobody has asked for its status
        time.sleep(0.1)
    raise AssertionError("the worker is still there")


def test_a_question_without_an_answer_is_asked_again(monkeypatch):
    """On a busy machine only; True and False are remembered."""
    lines = []
    monkeypatch.setattr(expression_worker, "_line", lambda worker, seconds: lines.append(1) or "")
    monkeypatch.setattr(expression_worker, "_start", lambda: subprocess.Popen(["cat"], stdin=-1, stdout=-1, text=True))
    expression_worker._stop()
    assert not equal_expressions("z", "w+1") and not equal_expressions("w+1", "z") and len(lines) == 2
    monkeypatch.undo()
    assert not equal_expressions("z", "w+1") and equal_expressions(r"\sqrt{68}", r"2\sqrt{17}")


def test_an_interrupted_question_does_not_shift_the_next_answers(monkeypatch):
    assert equal_expressions(r"\sqrt{12}", r"2\sqrt{3}")
    line = expression_worker._line

    def interrupted(worker, seconds):
        monkeypatch.setattr(expression_worker, "_line", line)
        raise KeyboardInterrupt

    monkeypatch.setattr(expression_worker, "_line", interrupted)
    with pytest.raises(KeyboardInterrupt):
        equal_expressions(r"\sqrt{20}", r"2\sqrt{5}")
    assert not equal_expressions(r"\sqrt{20}", r"3\sqrt{5}") and equal_expressions(r"\sqrt{20}", r"2\sqrt{5}")


def test_the_worker_starts_under_a_lower_limit_of_memory():
    """The system lets nobody raise a hard limit; macOS refuses any."""
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))\n"
        "from useful_code.expression_worker import equal_expressions\n"
        r"assert equal_expressions(r'\sqrt{8}', r'2\sqrt{2}')"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_without_the_package_one_line_says_so(monkeypatch):
    from useful_code.user_errors import UserError

    monkeypatch.setattr(expression_worker, "find_spec", lambda name: None)
    expression_worker._stop()
    with pytest.raises(UserError, match="pip install math-verify"):
        equal_expressions(r"\sqrt{3}", r"y\sqrt{3}")


@pytest.mark.parametrize(
    ("answer", "gold", "equal"),
    [
        ("6xy", "6", False),  # two variables are no unit
        (r"\frac{1}{2}bh", "1/2", False),
        ("5cm", "5", True),
        ("5 cm", "5", True),
        ("3 tenths", "3", False),
        ("10 am", "10 pm", False),
        (r"\pi r^2 h", r"\pi r^2", False),  # h is no hour
        (r"36\pi\text{ square inches}", r"36\pi", True),
        (r"25\pi\text{ cm}^2", r"25\pi", True),
        ("6", "2x + 3y = 6", False),  # an equation is not its right side
        ("x = 5", "5", True),
        ("2 + 3 = 5", "5", True),
        (r"\{1,2\}", "(1,2)", False),  # a set, an interval
        ("½", "0.5", True),
        (r"18\$", "18", True),
    ],
)
def test_what_graders_get_wrong(answer, gold, equal):
    assert same_answer(answer, gold) is equal is same_answer(gold, answer)


def test_a_heading_is_no_answer():
    text = "#### Step 1: Add\n3 + 4 = 7\n\n#### Conclusion\nThe answer is therefore 7."
    assert final_answer(text) == "7" and final_answer("3 + 4 = 7\n#### 7\nDone.") == "7"
    assert final_answer("3 + 4 = 7\n#### seven") == "seven"
