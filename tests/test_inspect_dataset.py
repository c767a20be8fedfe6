"""The page about a data set: what was planted in the rows is found, counted exactly and shown; nothing else is said."""

import json
import random
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from readmes import ROOT

from useful_code.converting.checked import CHECKS
from useful_code.inspecting import pairs, ratings, steps
from useful_code.inspecting.examples import ALIKE, MOST_CHARACTERS, SHOW, cut, differences
from useful_code.inspecting.findings import common_findings, heaviest_share
from useful_code.inspecting.page import VIEWS, kind_of
from useful_code.inspecting.pictures import MOST_BARS, bin_edges
from useful_code.inspecting.refused import refused_html
from useful_code.inspecting.seen import MOST_NAMES, OTHERS, Reservoir, Seen, Shown, look_at
from useful_code.inspecting.texts import TRACES, TRAITS, traits_of
from useful_code.inspecting.token_lengths import token_tables
from useful_code.read_rows import RowCounts
from useful_code.row_readers import ReadRow
from useful_code.tiny import save_tiny_model
from useful_code.user_errors import UserError

COMMAND = ROOT / "useful_code" / "inspect_dataset.py"


def pair(prompt, chosen, rejected, **columns):
    ask = {"role": "user", "content": prompt}
    sides = {"chosen": chosen, "rejected": rejected}
    return {side: [ask, {"role": "assistant", "content": text}] for side, text in sides.items()} | columns


def solution(prompt, labels, outcome=None):
    row = {"prompt": prompt, "completions": [f"Step {n}." for n in range(len(labels))], "labels": labels}
    return row if outcome is None else row | {"outcome": outcome}


def rated(prompt, answer, **given):
    chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return {"messages": chat, "ratings": given, "scales": {name: [0, 10] for name in given}}


def looked_at(rows, kind="pairs", sample_size=20, seed=0):
    """The rows as the command sees them: checked, then measured."""
    checked = ((ReadRow("f", n, row, None), CHECKS[kind](row)) for n, row in enumerate(rows, start=1))
    return look_at(checked, VIEWS[kind].measure, sample_size, seed)


def run(*words, cwd):
    command = [sys.executable, str(COMMAND), *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def texts_of(findings):
    return " | ".join(finding.text for finding in findings)


# what is counted


def test_traits_of_texts_by_hand():
    text = "# Head\n- one\n2) two\n**bold** and ```code``` 42? No!"
    assert dict(zip(TRAITS, traits_of(text), strict=True)) == {
        "is longer (characters)": len(text),
        "has more list items": 2,
        "has more headings": 1,
        "has more bold text": 1,
        "has more code blocks": 1,
        "has more digits": 3,
        "asks more questions": 1,
        "has more exclamation marks": 1,
        "opens as a refusal or an apology": 0,
        "stops in mid-sentence": 0,
    }
    for refusal in (
        "I'm sorry, no.",
        "I can’t help",
        " Sorry.",
        "As an AI model",
        "I cannot",
        "I apologize",
        "I am unable",
    ):
        assert traits_of(refusal)[8] == 1, refusal
    for other in ("I can help.", "Sorrow is", "I am able to.", "The answer: sorry"):
        assert traits_of(other)[8] == 0, other
    assert traits_of("and then the")[9] == 1


@pytest.mark.parametrize(
    "name, text",
    [
        ("turn marker", "Fine.\n\nHuman: and then?"),
        ("template token", "Yes<|im_end|>"),
        ("template token", "[/INST] Yes"),
        ("HTML", "a &amp; b"),
        ("HTML", '<p class="x">a</p>'),
        ("wrong decoding", "donâ€™t"),
        ("wrong decoding", "caf\ufffd"),
        ("control character", "a\x00b"),
    ],
)
def test_each_trace_is_found_and_only_it(name, text):
    assert [trace for trace in TRACES if TRACES[trace].pattern.search(text)] == [name]


def test_clean_texts_have_no_trace():
    text = "A < B and C > D; café, “quoted”, Ångström: Human: rights\n\n1 <2> <- x\tend 你好 😀"
    assert [trace for trace in TRACES if TRACES[trace].pattern.search(text)] == []


def test_shares_of_traits_by_hand():
    """Three decided pairs: longer preferred, longer preferred (by its label, the columns say otherwise), shorter
    preferred; a tie counts in none; equal lengths are not a difference."""
    rows = [
        pair("a", "long answer.", "short."),
        pair("b", "short.", "long answer.", label=0.1),
        pair("c", "short.", "long answer."),
        pair("d", "long answer.", "short.", tie=True),
        pair("e", "same.", "Same!"),
    ]
    longer = pairs.trait_shares(looked_at(rows))[0]
    assert (longer.differing, longer.preferred_has_more) == (3, 2)
    assert pairs.headline(looked_at(rows)) == {
        "pairs": "5",
        "different prompts": "5",
        "the longer answer is the preferred one": "66.7 %",
        "ties": "20.0 %",
    }


def test_repeated_and_turned_rows_are_counted():
    rows = [pair("Q", "a", "b"), pair("q ", "a", "b "), pair("Q", "b", "a"), pair("Q", "a", "c"), pair("R", "a", "b")]
    seen = looked_at(rows)
    assert seen.duplicates() == (1, 1)
    assert seen.rows_per_prompt().tolist() in ([4, 1], [1, 4])
    said = texts_of(common_findings(seen, RowCounts("f", 5, 5)))
    assert "1 pairs stand in the data both ways round" in said and "1 row (20.0 %) repeat" in said


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("PQR"), st.sampled_from("abc"), st.sampled_from("abc")), max_size=25))
def test_duplicates_agree_with_sets(drawn):
    drawn = [each for each in drawn if each[1] != each[2]]
    repeated, turned = looked_at([pair(*each) for each in drawn]).duplicates() if drawn else (0, 0)
    different = set(drawn)
    assert repeated == len(drawn) - len(different)
    assert turned == sum((p, b, a) in different for p, a, b in different) / 2


def test_columns_that_come_late_stay_aligned():
    rows = [rated("a", "x", first=1), rated("b", "y", second=2), rated("c", "z", first=3, second=4)]
    seen = looked_at(rows, "ratings")
    assert ratings.objectives(seen) == ["first", "second"]
    np.testing.assert_array_equal(seen.column("rating: first"), np.float32([1, np.nan, 3]))
    np.testing.assert_array_equal(seen.column("rating: second"), np.float32([np.nan, 2, 4]))
    assert np.isnan(seen.column("no such column")).all() and len(seen.column("no such column")) == 3


def test_subsets_beyond_the_limit_are_counted_together():
    rows = [pair(f"{n}", "a", "b", subset=f"s{n}") for n in range(MOST_NAMES + 5)]
    seen = looked_at(rows)
    assert seen.subsets[OTHERS] == 5 and seen.subsets.total() == MOST_NAMES + 5 and len(seen.subset_of) == seen.rows


def test_subset_table_keeps_numbers_of_its_own_rows():
    rows = [pair(f"{n}", "long answer", "short", subset="up") for n in range(3)]
    rows += [pair(f"x{n}", "short", "long answer", subset="down") for n in range(2)]
    table = next(table for table in pairs.tables(looked_at(rows)) if table.caption.startswith("Subsets"))
    assert [row[:2] for row in table.rows] == [("up", "3"), ("down", "2")]
    assert [row[3] for row in table.rows] == ["11", "5"]
    assert [row[5].split(" %")[0] for row in table.rows] == ["100.0", "0.0"]


# what is found


def balanced(number, rng, **columns):
    """Pairs in which no trait tells the preferred answer: each pair of texts once this way, once the other."""
    rows = []
    for n in range(number // 2):
        texts = [f"Answer {'very ' * rng.randint(0, 9)}{letter}." for letter in "xy"]
        rows += [pair(f"Q{n}a", *texts, **columns), pair(f"Q{n}b", *texts[::-1], **columns)]
    return rows


def test_nothing_stands_out_of_balanced_rows():
    seen = looked_at(balanced(400, random.Random(0)))
    assert common_findings(seen, RowCounts("f", 400, 400)) == [] and pairs.findings(seen) == []


def test_planted_shortcut_swapped_scores_and_low_labels_are_found():
    rng = random.Random(1)
    rows = balanced(300, rng)
    rows += [pair(f"R{n}", "Short.", "Far longer than the other one.") for n in range(300)]
    rows += [pair("S", "a.", "b.", chosen_score=1, rejected_score=2), pair("T", "a.", "b.", label=0.2)]
    said = texts_of(pairs.findings(looked_at(rows)))
    assert re.search(r"that is longer \(characters\) is the rejected one in \d\d % of the pairs", said)
    assert "In 1 pairs the rejected answer has the higher score" in said and "1 pairs have a label below 0.5" in said


def test_heavy_prompts_are_found_from_a_hundred_prompts_on():
    rows = [pair(f"Q{n}", "a", "b") for n in range(99)] + [pair("Q0", "a", f"c{n}") for n in range(100)]
    assert heaviest_share(looked_at(rows)) == 0  # 99 prompts
    rows.append(pair("one more", "a", "b"))
    assert heaviest_share(looked_at(rows)) == pytest.approx(101 / 200)
    assert "1 % of the prompts have 50 % of the rows" in texts_of(
        common_findings(looked_at(rows), RowCounts("f", 200, 200))
    )


def test_ratings_that_follow_length_or_each_other_are_found():
    rng = random.Random(2)
    rows = []
    for n in range(200):
        length, other = rng.randint(1, 50), rng.random()
        rows.append(rated(f"Q{n}", "x" * length, verbosity=length / 10, twin=length / 5, free=other * 10, stuck=3))
    seen = looked_at(rows, "ratings")
    said = texts_of(ratings.findings(seen))
    assert "stuck is 3 in all of its 200 rows" in said
    assert "verbosity follows the length of the answer (rank correlation +1.00)" in said
    assert "twin and verbosity say nearly the same" in said and "free" not in said
    few = looked_at(rows[:99], "ratings")
    assert np.isnan(ratings.correlation(few, "rating: verbosity", "response"))


def test_steps_by_hand():
    rows = [
        solution("a", [1, 1], outcome=False),  # right steps, wrong answer
        solution("b", [1, 0], outcome=True),  # wrong step, right answer
        solution("c", [0.5, 0.25, None]),
        solution("d", [None], outcome=True),
    ]
    seen = looked_at(rows, "steps")
    assert steps.headline(seen) == {
        "solutions": "4",
        "different prompts": "4",
        "labelled steps": "6",
        "right steps": "66.7 %",
    }
    assert seen.known("first_wrong").tolist() == [2, 2] and seen.known("all_right").tolist() == [1, 0]
    said = texts_of(steps.findings(seen))
    assert "1 solutions have only right steps, and yet a wrong answer" in said
    assert "1 solutions have a wrong step, and yet a right answer" in said
    facts = dict(next(table for table in steps.tables(seen) if table.caption == "Labels").rows)
    assert facts["labels between 0 and 1"] == "33.3 %" and facts["steps with a label"] == "75.0 %"
    assert "All 4 labelled steps are right" in texts_of(steps.findings(looked_at([solution("a", [1] * 4)], "steps")))


# what is drawn and shown


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60), st.booleans())
def test_every_value_lies_in_a_bin(values, log):
    values = np.abs(np.array(values)) + 1 if log else np.array(values)
    edges = bin_edges(values, log)
    assert np.all(np.diff(edges) > 0) and len(edges) <= 2 * MOST_BARS
    assert np.histogram(values, edges)[0].sum() == len(values)


def test_bars_stand_around_the_numbers_on_a_grid():
    assert bin_edges(np.array([0, 1])).tolist() == [-0.5, 0.5, 1.5]
    np.testing.assert_allclose(bin_edges(np.float32([1, 4 / 3, 2])), [5 / 6, 7 / 6, 1.5, 11 / 6, 13 / 6], rtol=1e-5)
    wide = bin_edges(np.arange(1, 108))
    assert wide[0] == 0.5 and set(np.diff(wide)) == {2}


def test_sample_is_uniform_and_repeatable():
    """2,000 draws of 5 from 20: every item is expected 500 times, with a standard deviation of 19.4."""
    times = np.zeros(20)
    for seed in range(2000):
        reservoir = Reservoir(5, seed)
        for item in range(20):
            reservoir.offer(item)
        times[reservoir.items] += 1
        assert len(set(reservoir.items)) == 5
    assert np.abs(times - 500).max() < 5 * 19.4
    samples = [[shown.place for shown in looked_at(balanced(100, random.Random(0))).sample.shuffled()] for _ in "ab"]
    assert samples[0] == samples[1]


WORDS = st.lists(st.sampled_from(["a", "b", "<b>", "&", "\n", " ", "  ", "é"]), max_size=30).map(" ".join)


@settings(deadline=None)
@given(WORDS, WORDS)
def test_marked_texts_are_the_texts(first, second):
    """Without the marks, what is shown is exactly what was given; equal texts have no mark."""
    from html import unescape

    shown = differences(first, second)
    assert [unescape(re.sub("</?mark>", "", html)) for html in shown] == [first, second]
    assert "<mark>" not in "".join(differences(first, first))


def test_differences_stay_readable_and_quick():
    assert ALIKE > 0 and differences("a b c d", "w x y z") == ("a b c d", "w x y z")
    long = "word " * 50_000
    assert differences(long, long + "end")[0] == cut(long)
    assert cut("x" * (MOST_CHARACTERS + 1234)).endswith("<i>[and 1,234 more characters]</i>")


def test_every_kind_of_row_is_shown_whole_and_escaped():
    nasty = "<script>alert(1)</script>"
    rows = {
        "pairs": pair(
            nasty, nasty + " yes", nasty + " no", chosen_score=2.5, rejected_score=1, margin=1.5, subset=nasty
        ),
        "ratings": rated(nasty, nasty + " yes", quality=4),
        "steps": {"prompt": nasty, "completions": [nasty, "b"], "labels": [0.25, None], "outcome": False},
    }
    said = {"pairs": ["score 2.5", "margin 1.5"], "ratings": ["quality 4 (0 to 10)"]}
    said["steps"] = ["wrong (0.25)", "no label", "the answer is wrong"]
    for kind, row in rows.items():
        html = SHOW[kind](Shown("f:1", CHECKS[kind](row)))
        assert "<script" not in html and "&lt;script&gt;" in html and "f:1" in html
        for text in said[kind]:
            assert text in html


def test_refused_rows_are_counted_over_files_and_shown_by_reason(tmp_path):
    record = {"file": "raw.jsonl", "line": 7, "reason": "role_order", "detail": "chosen[0]", "raw": "<b>" * 400}
    record["raw_characters"] = 5000
    first = write_lines(tmp_path / "a.jsonl", [record] * 5)
    second = write_lines(tmp_path / "b.jsonl", [record | {"reason": "tie"}])
    html, number = refused_html([first, second], seed=0)
    assert number == 6 and html.count('<div class="row">') == 3 + 1
    assert "<td>role_order</td><td>5</td>" in html and "[and 4,400 more characters]" in html and "<b>" not in html
    for broken in ('{"reason": 1}\n', "[]\n", "not json\n"):
        second.write_text(broken, encoding="utf-8")
        with pytest.raises(UserError, match=r"b\.jsonl"):
            refused_html([first, second], seed=0)


def test_tokens_are_those_of_the_recipes(tmp_path):
    from useful_code.render import read_template, render
    from useful_code.reward_model import load_tokenizer

    save_tiny_model(tmp_path / "tiny")
    rows = [Shown("f:1", pair("Q", "a" * 600, "b")), Shown("f:2", pair("Q", "a", "b"))]
    lengths, limits = token_tables(rows, "pairs", str(tmp_path / "tiny"))
    template = read_template(load_tokenizer(str(tmp_path / "tiny")))
    assert lengths.rows[0][-1] == f"{len(render(template, rows[0].row['chosen'])):,}"
    assert limits.rows[0][0] == "512 tokens" and limits.rows[0][1].startswith("50.0 %")


# the command


class Balanced(HTMLParser):
    """Raises if an element is closed that was not opened last."""

    void = {"meta", "img", "br", "link"}

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("kind", ["pairs", "ratings", "steps"])
def test_command_makes_the_same_page_twice_for_every_kind(tmp_path, kind):
    rows = {
        "pairs": [pair(f"Q{n}", f"Good {n}.", f"Bad {n}, &amp; more.", margin=n / 7) for n in range(30)],
        "ratings": [rated(f"Q{n}", "x" * n, helpful=n % 5, other=n % 3) for n in range(1, 130)],
        "steps": [solution(f"Q{n}", [1, n % 2], outcome=bool(n % 2)) for n in range(30)],
    }[kind]
    rows.insert(0, {**rows[0], **({"chosen": []} if kind == "pairs" else {"ratings": {}, "labels": []})})
    write_lines(tmp_path / "rows.jsonl", rows)
    finished = run("--dataset", "rows.jsonl", "--output", "one", "--num_examples", 7, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert f"rows.jsonl: {len(rows)} rows read, {len(rows) - 1} kept, 1 refused" in finished.stdout
    assert run("--dataset", "rows.jsonl", "--output", "two", "--num_examples", 7, cwd=tmp_path).returncode == 0
    page = (tmp_path / "one" / "report.html").read_text(encoding="utf-8")
    for file in sorted((tmp_path / "one").iterdir()):
        same = (tmp_path / "two" / file.name).read_bytes()
        assert file.read_bytes().replace(b"one/", b"two/") == same, file.name
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert "<h2>7 rows drawn at random</h2>" in page and "rows.jsonl:1 ·" in page  # the refused one
    assert len(list((tmp_path / "one").glob("*.png"))) == page.count("<img")


def test_command_finds_what_the_conversion_left_beside(tmp_path):
    raw = [{"prompt": f"Q{n}", "chosen": "good", "rejected": "bad"} for n in range(9)] + [{"prompt": "Q"}]
    write_lines(tmp_path / "raw.jsonl", raw)
    convert = [sys.executable, str(ROOT / "useful_code" / "convert_dataset.py"), "--source", "columns"]
    convert += ["--input", "raw.jsonl", "--output", "pairs"]
    subprocess.run(convert, cwd=tmp_path, check=True, capture_output=True)
    finished = run("--dataset", "pairs", "--output", "look", cwd=tmp_path)
    assert "1 refused rows are described on the page" in finished.stdout
    page = (tmp_path / "look" / "report.html").read_text(encoding="utf-8")
    assert "missing_key" in page and "pairs/DATA_CARD.md" in page


@pytest.mark.parametrize(
    "words, said",
    [
        (["--dataset", "none.jsonl"], "none.jsonl: no such file"),
        (["--dataset", "raw.jsonl"], "the columns are 'prompt', 'answer', but pairs have chosen and rejected"),
        (["--dataset", "broken.jsonl"], "broken.jsonl: holds no row that can be read"),
        (["--dataset", "texts.jsonl"], "none of 1 rows can be used (1 wrong_type)"),
        (["--dataset", "good.jsonl", "--num_examples", "-1"], "--num_examples is -1"),
        (["--dataset", "good.jsonl", "--refused", "none.jsonl"], "none.jsonl: cannot be read"),
        (["--dataset", "good.jsonl", "--output", "good.jsonl"], "good.jsonl"),
        (
            ["--dataset", "good.jsonl", "--tokenizer", "no-such-model"],
            "no tokenizer can be loaded from 'no-such-model'",
        ),
    ],
)
def test_wrong_input_gets_one_line_and_status_2(tmp_path, words, said):
    write_lines(tmp_path / "raw.jsonl", [{"prompt": "a", "answer": "b"}])
    write_lines(tmp_path / "texts.jsonl", [{"chosen": "Human: a", "rejected": "b"}])
    write_lines(tmp_path / "good.jsonl", [pair("a", "b", "c")])
    (tmp_path / "broken.jsonl").write_text("not json\n", encoding="utf-8")
    finished = run("--output", "look", *words, cwd=tmp_path)
    assert finished.returncode == 2 and "Traceback" not in finished.stderr
    assert finished.stderr.startswith("error: ") and finished.stderr.count("\n") == 1 and said in finished.stderr


def test_kind_is_seen_from_the_first_row_that_can_be_read(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("broken\n" + json.dumps(solution("a", [1])) + "\n", encoding="utf-8")
    assert kind_of(str(path), None) == "steps"


def test_numbers_of_a_row_take_little_memory():
    """What grows with the rows: three hashes of 8 bytes, a subset number of 2, and 4 bytes per column."""
    row = CHECKS["pairs"](pair("Q", "a" * 5000, "b" * 5000))
    seen = Seen(sample_size=1, seed=0)
    for n in range(50):
        seen.add(f"f:{n}", row, pairs.measure(row))
    held = sum(column.itemsize for column in seen.columns.values()) + 3 * 8 + 2
    assert all(len(column) == 50 for column in seen.columns.values()) and held <= 110
