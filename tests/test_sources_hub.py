"""The public preference sets of the hub: one raw row of each by hand, and every rule (METHODS 11.4: 1, 3, 4, 5)."""

import copy

import pytest
from raw_rows_hub import EXAMPLES, said

from useful_code.converting.checked import Options, checked_rows
from useful_code.reasons import RowRefused
from useful_code.sources import comparisons, ranked, ready_pairs
from useful_code.sources.html_text import text_of_html

SOURCES = comparisons.SOURCES | ready_pairs.SOURCES | ranked.SOURCES
KEEP_TIES = Options(keep_ties=True)


def example(name, **changes):
    """The example row of a source with some fields changed."""
    return copy.deepcopy(EXAMPLES[name][0]) | changes


def converted(name, *rows, options=KEEP_TIES):
    """The rows that come of raw rows, and (reason, detail) of what was refused."""
    kept, losses = checked_rows(SOURCES[name], rows, options)
    return kept, [(loss.refused.reason, loss.refused.detail) for loss in losses]


def one_pair(name, *rows):
    (pair,), losses = converted(name, *rows)
    assert not losses
    return pair


def reasons(name, *rows, options=KEEP_TIES):
    kept, losses = converted(name, *rows, options=options)
    assert not kept
    return [reason for reason, _ in losses]


def pair(*prompt, chosen="good", rejected="bad", **columns):
    return {"chosen": said(*prompt, chosen), "rejected": said(*prompt, rejected), **columns}


EXPECTED = {
    "shp": pair(
        "Why does bread rise?",
        chosen="Yeast makes gas.",
        rejected="Magic.",
        chosen_score=15.0,
        rejected_score=5.0,
        subset="askbaking_train",
        source_id="p1/a1/b1",
    ),
    "helpsteer2_preference": pair("Q", "A", "Q2", chosen="better", rejected="worse", margin=2.0, subset="val"),
    "helpsteer3": pair("Q", "A", "Q2", chosen="better", rejected="worse", margin=2.0, subset="code/python"),
    "pku_saferlhf_better": pair("Q", chosen="useful and harmful", rejected="useless", subset="unsafe over safe"),
    "pku_saferlhf_safer": pair("Q", chosen="useless", rejected="useful and harmful", subset="safe over unsafe"),
    "arena_55k": pair("Q", chosen="won", rejected="lost", source_id="30192"),
    "summarize_from_feedback": pair(
        "Summarise this post from r/tifu in one or two sentences.\n\nTitle: Keys\n\nI lost my keys. I found them.",
        chosen="Keys lost and found.",
        rejected="Keys lost.",
        subset="tifu",
        source_id="t3_1",
    ),
    "capybara": pair("Q", "A", "Q2", chosen_score=5.0, rejected_score=3.0, subset="Dove"),
    "orca_dpo": {
        side: [{"role": "system", "content": "You are terse."}, *said("Q", answer)]
        for side, answer in (("chosen", "good"), ("rejected", "bad"))
    }
    | {"chosen_score": 9.0, "rejected_score": 4.0, "subset": "gsm8k_train"},
    "ultrainteract": pair(
        "1 + 1?", "3", "Observation: wrong.", chosen="2", rejected="4", subset="Math_CoT", source_id="abc_1_2"
    ),
    "distilabel_math": pair("1 + 1?", chosen="2", rejected="3", chosen_score=9.0, rejected_score=7.5),
    "skywork_80k": pair("Q", subset="magpie_pro"),
    "trl_preference": pair("Q", chosen_score=8.0, rejected_score=2.5),
    "columns": pair("Q"),
    "helpsteer": pair("Q", rejected="poor", chosen_score=3.5, rejected_score=1.5),
    "helpsteer2": pair("Q", rejected="poor", chosen_score=3.5, rejected_score=1.5),
    "beavertails": pair("Q", chosen="help", rejected="harm", chosen_score=1.0, rejected_score=0.0),
    "stack_exchange": pair(
        "How do I loop?",
        chosen="So:\n\n```\nfor i in x:\n    f(i)\n```",
        rejected="No idea.",
        chosen_score=4.0,
        rejected_score=0.0,
        source_id="ai.stackexchange.com/a/3/ai.stackexchange.com/a/2",
        subset="ai.stackexchange.com",
    ),
    "nectar": pair("Q", "A", "Q2", chosen="first", rejected="second", chosen_score=-1.0, rejected_score=-2.0),
    "code_ultrafeedback": pair(
        "Sort a list.",
        chosen="sorted(x)",
        rejected="x.sort",
        chosen_score=5.0,
        rejected_score=2.0,
        subset="readability",
    ),
}


def test_every_source_has_an_example():
    assert set(EXAMPLES) == set(SOURCES) == set(EXPECTED) | {"ultrafeedback"}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_row_by_hand(name):
    rows = copy.deepcopy(EXAMPLES[name])
    assert one_pair(name, *rows) == EXPECTED[name]
    assert rows == EXAMPLES[name], "the raw rows were changed"


# --- two answers and a verdict (comparisons.py)


def test_shp_labels_0_and_1_give_opposite_winners():
    """METHODS 11.4, check 3."""
    turned = one_pair("shp", example("shp", labels=1, score_A=15, score_B=5))
    assert turned["chosen"][-1]["content"] == "Magic."
    assert (turned["chosen_score"], turned["rejected_score"]) == (15.0, 5.0)


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"score_ratio": 2}, "left_out_by_rule"),
        ({"score_ratio": 2.0000001}, None),
        ({"score_ratio": None}, "missing_key"),
        ({"score_ratio": float("nan")}, "bad_score"),
        ({"labels": 2}, "no_preference"),
        ({"labels": True}, "no_preference"),
        ({"labels": 1}, "no_preference"),  # A is preferred, but has fewer votes
        ({"score_B": 10**400}, "bad_score"),
        ({"human_ref_A": " \n"}, "empty_content"),
        ({"history": ["Q"]}, "wrong_type"),
    ],
)
def test_shp_rules(changes, reason):
    assert (
        reasons("shp", example("shp", **changes)) == [reason] if reason else one_pair("shp", example("shp", **changes))
    )


@pytest.mark.parametrize(
    "name, key, first, second",
    [
        ("helpsteer2_preference", "preference_strength", "response_1", "response_2"),
        ("helpsteer3", "overall_preference", "response1", "response2"),
    ],
)
def test_helpsteer_signs(name, key, first, second):
    """METHODS 11.4, check 5: -2 means that the first response is chosen with margin 2."""
    for strength in range(-3, 4):
        row = example(name, **{key: strength, first: "first", second: "second"})
        made = one_pair(name, row)
        assert made["chosen"][-1]["content"] == ("second" if strength > 0 else "first")
        assert made["margin"] == abs(strength)
        assert made.get("tie") == (True if strength == 0 else None)
    assert reasons(name, example(name, **{key: 0}), options=Options()) == ["tie"]
    for unknown in (4, -100, 0.5, None, "2", True):
        assert reasons(name, example(name, **{key: unknown})) == ["no_preference"]


@pytest.mark.parametrize(
    "prompt, contents",
    [
        ("Q <extra_id_1> Q", ["Q <extra_id_1> Q"]),
        ("<extra_id_1>User\nQ", ["Q"]),
        ("Q\n\n<extra_id_1>Assistant\nA\n<extra_id_1>User\nQ2\n", ["Q", "A", "Q2"]),
    ],
)
def test_helpsteer_prompts_hold_earlier_turns(prompt, contents):
    made = one_pair("helpsteer2_preference", example("helpsteer2_preference", prompt=prompt))
    assert made["chosen"] == said(*contents, "better")


def test_helpsteer_prompts_must_end_with_the_user():
    row = example("helpsteer2_preference", prompt="Q\n<extra_id_1>Assistant\nA")
    assert reasons("helpsteer2_preference", row) == ["role_order"]


@pytest.mark.parametrize(
    "safety, subset",
    [((True, True), "safe over safe"), ((False, False), "unsafe over unsafe"), ((None, True), None), (("x", 1), None)],
)
def test_pku_pairs_of_equal_or_unknown_safety_are_kept(safety, subset):
    flags = dict(zip(("is_response_0_safe", "is_response_1_safe"), safety, strict=True))
    for name in ("pku_saferlhf_better", "pku_saferlhf_safer"):
        assert one_pair(name, example(name, **flags)).get("subset") == subset


def test_pku_label_against_the_flags_is_refused_for_safety_only():
    row = example("pku_saferlhf_safer", safer_response_id=0)
    assert reasons("pku_saferlhf_safer", row) == ["no_preference"]
    assert one_pair("pku_saferlhf_better", row)["chosen"][-1]["content"] == "useful and harmful"
    assert reasons("pku_saferlhf_better", example("pku_saferlhf_better", better_response_id=-1)) == ["no_preference"]


def winner(name):
    return {f"winner_{each}": int(each == name) for each in ("model_a", "model_b", "tie")}


def test_arena_winners():
    row = example("arena_55k")
    assert one_pair("arena_55k", row | winner("model_a"))["chosen"] == said("Q", "lost")
    assert one_pair("arena_55k", row | {key: str(value) for key, value in winner("model_b").items()}) == pair(
        "Q", chosen="won", rejected="lost", source_id="30192"
    )  # a CSV file has text
    tie = one_pair("arena_55k", row | winner("tie"))
    assert (tie["tie"], tie["label"], tie["chosen"]) == (True, 0.5, said("Q", "lost"))


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"winner_model_a": 1}, "no_preference"),  # two winners
        ({"winner_model_b": 0}, "no_preference"),  # none
        ({"winner_tie": None}, "no_preference"),
        ({"prompt": '["Q"'}, "malformed_json"),
        ({"prompt": "[" * 100_000}, "malformed_json"),
        ({"prompt": '"Q"'}, "wrong_type"),
        ({"prompt": "[]", "response_a": "[]", "response_b": "[]"}, "no_messages"),
        ({"response_a": "[null]"}, "missing_key"),
        ({"response_a": "[3]"}, "wrong_type"),
        ({"response_a": '["a", "b"]'}, "unequal_length"),
        ({"response_a": '["\\ud83d"]'}, "invalid_unicode"),
        ({"response_a": '["won"]'}, "equal_responses"),
        ({"prompt": '["Q", "Q2"]', "response_a": '["a", "c"]', "response_b": '["b", "c"]'}, "history_differs"),
    ],
)
def test_arena_refusals(changes, reason):
    assert reasons("arena_55k", example("arena_55k", **changes)) == [reason]


def test_arena_several_turns_after_equal_answers():
    row = example("arena_55k", prompt='["Q", "Q2"]', response_a='["A", "lost"]', response_b=["A ", "won"])
    assert one_pair("arena_55k", row)["chosen"] == said("Q", "A", "Q2", "won")


def test_summaries_of_news():
    info = {"id": "n1", "post": None, "title": None, "subreddit": None, "site": "cnn", "article": "It rained.\n"}
    made = one_pair("summarize_from_feedback", example("summarize_from_feedback", info=info, choice=0))
    assert made == pair(
        "Summarise this news article in a few sentences.\n\nIt rained.",
        chosen="Keys lost.",
        rejected="Keys lost and found.",
        subset="cnn",
        source_id="n1",
    )


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"info": None}, "missing_key"),
        ({"info": {"post": None}}, "missing_key"),
        ({"info": {"post": " "}}, "empty_content"),
        ({"info": {"post": "P", "title": 3}}, "wrong_type"),
        ({"summaries": [{"text": "a"}]}, "wrong_type"),
        ({"summaries": [{"text": "a"}, "b"]}, "wrong_type"),
        ({"choice": None}, "no_preference"),
        ({"choice": 2}, "no_preference"),
    ],
)
def test_summaries_refused(changes, reason):
    assert reasons("summarize_from_feedback", example("summarize_from_feedback", **changes)) == [reason]


# --- chosen and rejected are named already (ready_pairs.py)


@pytest.mark.parametrize("name", ["capybara", "distilabel_math"])
def test_ratings_equal_missing_and_contradictory(name):
    tie = one_pair(name, example(name, chosen_rating=4, rejected_rating="4"))
    assert (tie["tie"], tie["label"], tie["chosen_score"], tie["rejected_score"]) == (True, 0.5, 4.0, 4.0)
    unrated = one_pair(name, example(name, chosen_rating=None, rejected_rating=None))
    assert not {"tie", "chosen_score", "rejected_score"} & set(unrated)
    assert reasons(name, example(name, chosen_rating=1)) == ["no_preference"]
    assert reasons(name, example(name, rejected_rating="N/A")) == ["bad_score"]


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"status": "unchanged"}, {"tie": None, "rejected_score": 4.0}),
        ({"status": "tie", "rating": [9.0, 9.0]}, {"tie": True, "rejected_score": 9.0}),
        ({"rating": [4.0, 8.0]}, {"chosen_score": 9.0, "rejected_score": None}),  # not the ratings of chosen_score
        ({"rating": [float("nan"), 9.0]}, {"rejected_score": None}),
        ({"rating": None, "chosen_score": None}, {"chosen_score": None, "rejected_score": None}),
        ({"in_gsm8k_train": False}, {"subset": None}),
    ],
)
def test_orca(changes, expected):
    made = one_pair("orca_dpo", example("orca_dpo", **changes))
    assert {key: made.get(key) for key in expected} == expected


def test_orca_without_a_system_message_and_with_an_unknown_status():
    assert one_pair("orca_dpo", example("orca_dpo", system=""))["chosen"] == said("Q", "good")
    assert reasons("orca_dpo", example("orca_dpo", status=None)) == ["no_preference"]


@pytest.mark.parametrize(
    "trajectory, reason",
    [
        ([], "role_order"),
        (["Q"], "wrong_type"),
        ([{"from": "user"}], "missing_key"),
        ([{"from": "human", "value": "Q"}], "unknown_role"),
        ([{"from": "user", "value": "Q"}, {"from": "assistant", "value": "A"}], "role_order"),
    ],
)
def test_ultrainteract_refusals(trajectory, reason):
    assert reasons("ultrainteract", example("ultrainteract", trajectory=trajectory)) == [reason]


SYSTEM = {"role": "system", "content": "S"}
ANSWERS = {"chosen": said("Q", "good")[1:], "rejected": said("Q", "bad")[1:]}
CHATS = {"chosen": said("Q", "good"), "rejected": said("Q", "bad")}


@pytest.mark.parametrize(
    "row, first, columns",
    [
        ({"prompt": "Q ", "chosen": " good", "rejected": "bad"}, [], {}),
        ({"prompt": said("Q"), "chosen": "good", "rejected": "bad"}, [], {}),
        ({"prompt": said("Q"), **ANSWERS}, [], {}),
        ({"prompt": "Q", **ANSWERS}, [], {}),
        ({"prompt": [SYSTEM, *said("Q")], **ANSWERS, "system": "other"}, [SYSTEM], {}),
        (CHATS, [], {}),
        ({"prompt": "another text", **CHATS}, [], {}),
        ({"system": "S", **CHATS}, [SYSTEM], {}),
        ({"system": "S", "prompt": "Q", "chosen": "good", "rejected": "bad"}, [SYSTEM], {}),
        ({"system": "", **CHATS}, [], {}),
        ({**CHATS, "chosen_score": "2", "rejected_score": 1}, [], {"chosen_score": 2.0, "rejected_score": 1.0}),
        ({**CHATS, "score_chosen": 1, "score_rejected": 2}, [], {"chosen_score": 1.0, "rejected_score": 2.0}),
        ({**CHATS, "score_chosen": 1, "score_rejected": None}, [], {}),
        (
            {**CHATS, "score_chosen": 3, "score_rejected": 3},
            [],
            {"chosen_score": 3.0, "rejected_score": 3.0, "tie": True, "label": 0.5},
        ),
    ],
)
def test_trl_forms(row, first, columns):
    chats = {side: [*first, *CHATS[side]] for side in ("chosen", "rejected")}
    assert one_pair("trl_preference", row) == chats | columns


@pytest.mark.parametrize(
    "row, reason, hint",
    [
        ({"chosen": "good", "rejected": "bad"}, "missing_key", "--source columns"),
        (ANSWERS, "missing_key", "no prompt"),
        ({"prompt": "Q", "chosen": "good"}, "missing_key", "no rejected"),
        ({"prompt": "Q", "chosen": "good", "rejected": ANSWERS["rejected"]}, "wrong_type", "rejected is list"),
        ({"prompt": {"role": "user"}, **ANSWERS}, "wrong_type", "prompt is dict"),
        ({"prompt": "Q", "chosen": [], "rejected": []}, "no_messages", "chosen is an empty list"),
        ({"prompt": "Q", "chosen": ANSWERS["chosen"], "rejected": CHATS["rejected"]}, "role_order", ""),
        ({"chosen": [3], "rejected": [3]}, "wrong_type", ""),
        ({**CHATS, "system": 3}, "wrong_type", "system is int"),
        ({**CHATS, "chosen_score": "high", "rejected_score": 1}, "bad_score", "chosen_score"),
    ],
)
def test_trl_refusals(row, reason, hint):
    kept, losses = converted("trl_preference", row)
    assert not kept and losses[0][0] == reason and hint in losses[0][1]


def test_columns_of_other_names():
    row = {"question": "Q", "yes": "good", "no": "bad", "sys": "S"}
    names = {"prompt": "question", "chosen": "yes", "rejected": "no", "system": "sys"}
    assert ready_pairs.columns(row, **names)[0]["chosen"] == [SYSTEM, *said("Q", "good")]
    for empty in ("", " ", None, float("nan")):
        assert ready_pairs.columns(row | {"sys": empty}, **names)[0]["chosen"] == said("Q", "good")


@pytest.mark.parametrize(
    "value, text",
    [(True, "True"), (0, "0"), (2.5, "2.5"), (-3.0, "-3.0"), (float("inf"), "inf"), (10**400, f"1{400 * '0'}")],
)
def test_columns_scalars_become_text(value, text):
    assert one_pair("columns", example("columns", chosen=value))["chosen"] == said("Q", text)


@pytest.mark.parametrize(
    "value, reason",
    [
        (None, "missing_key"),
        (float("nan"), "missing_key"),
        ("", "empty_content"),
        (["good"], "wrong_type"),
        ({}, "wrong_type"),
        pytest.param(10**5000, "wrong_type", id="more digits than Python writes"),
        ("\ud800", "invalid_unicode"),
    ],
)
@pytest.mark.parametrize("column", ["prompt", "chosen", "rejected"])
def test_columns_refusals(column, value, reason):
    assert reasons("columns", example("columns", **{column: value})) == [reason]


# --- several scored answers (ranked.py)


@pytest.mark.parametrize("scores, pairs, ties", [((4, 3, 2, 1), 6, 0), ((4, 3, 3, 1), 5, 1), ((2, 2, 2, 2), 0, 6)])
def test_ultrafeedback_pairs(scores, pairs, ties):
    """METHODS 11.4, check 4."""
    completions = [{"response": f"a{i}", "fine-grained_score": score} for i, score in enumerate(scores)]
    row = example("ultrafeedback", completions=completions)
    kept, losses = converted("ultrafeedback", row, options=Options())
    assert (len(kept), [reason for reason, _ in losses]) == (pairs, ["tie"] * ties)
    assert all(made["chosen_score"] > made["rejected_score"] for made in kept)


def test_ultrafeedback_row_by_hand():
    kept, losses = converted("ultrafeedback", example("ultrafeedback"))
    assert not losses
    assert kept == [
        pair("Q", rejected="fair", chosen_score=4.5, rejected_score=3.25, subset="evol_instruct"),
        pair("Q", chosen="fair", rejected="poor", chosen_score=3.25, rejected_score=1.0, subset="evol_instruct"),
        pair("Q", rejected="poor", chosen_score=4.5, rejected_score=1.0, subset="evol_instruct"),
    ]


def test_an_answer_that_cannot_be_used_is_refused_by_itself():
    row = example("ultrafeedback")
    row["completions"] += [{"response": "no score"}, {"response": " ", "fine-grained_score": 1}, "text"]
    row["completions"] += [{"response": "x", "fine-grained_score": float("nan")}]
    kept, losses = converted("ultrafeedback", row)
    assert len(kept) == 3
    assert [reason for reason, _ in losses] == ["missing_key", "empty_content", "wrong_type", "bad_score"]
    assert losses[0][1].startswith("completions[3]: no fine-grained_score")


@pytest.mark.parametrize("name", ["helpsteer", "beavertails"])
def test_grouped_answers(name):
    source, rows = SOURCES[name], EXAMPLES[name]
    assert {source.group_key(row) for row in [*rows, rows[0] | {"prompt": " Q\n"}]} == {"Q"}
    assert reasons(name, rows[0]) == ["single_answer"]
    assert reasons(name, rows[0], rows[0]) == ["equal_responses"]
    with pytest.raises(RowRefused, match="missing_key"):
        source.group_key({"response": "a"})


@pytest.mark.parametrize(
    "name, changes, reason",
    [
        ("helpsteer", {"helpfulness": 5}, "bad_rating"),
        ("helpsteer", {"correctness": None}, "missing_key"),
        ("helpsteer", {"correctness": "high"}, "bad_score"),
        ("beavertails", {"is_safe": None}, "missing_key"),
        ("beavertails", {"is_safe": 1}, "wrong_type"),
    ],
)
def test_grouped_answers_refused(name, changes, reason):
    assert reasons(name, EXAMPLES[name][0] | changes, EXAMPLES[name][1]) == [reason, "single_answer"]


def test_nectar_ties_in_rank_and_a_prompt_without_an_open_turn():
    row = example("nectar", prompt="\n\nHuman: Q")
    row["answers"][0]["rank"] = 1
    assert one_pair("nectar", row) == pair(
        "Q", chosen="first", rejected="second", chosen_score=-1.0, rejected_score=-1.0, tie=True, label=0.5
    ) | {"chosen": said("Q", "second"), "rejected": said("Q", "first")}
    assert reasons("nectar", example("nectar", prompt="Q")) == ["no_turn_marker"]
    assert reasons("nectar", example("nectar", prompt="\n\nHuman: Q\n\nAssistant: A")) == ["role_order"] * 2
    row["answers"][0]["rank"] = 0
    assert reasons("nectar", row) == ["bad_rating", "single_answer"]


def test_code_ratings_belong_to_the_model():
    row = example("code_ultrafeedback")
    row["responses"] += [{"model": "m3", "response": "a"}, {"model": "m4", "response": "b"}, {"response": "c"}]
    row["annotations"] += [{"model": "m3", "rating": "N/A"}, {"model": "m2", "rating": 3}, "text", {"model": [1]}]
    kept, losses = converted("code_ultrafeedback", row)
    assert kept == [EXPECTED["code_ultrafeedback"] | {"rejected_score": 2.5}]
    assert [reason for reason, _ in losses] == ["bad_score", "not_rated", "missing_key"]


def test_stack_exchange_without_metadata_and_without_words():
    row = example("stack_exchange", metadata=None)
    assert one_pair("stack_exchange", row)["source_id"] == "3/2"
    row["answers"][0]["text"] = '<p><img src="a.png"></p>'
    assert reasons("stack_exchange", row) == ["empty_content", "single_answer"]


@pytest.mark.parametrize(
    "html, text",
    [
        ("a &lt; b &amp; c\n  d", "a < b & c d"),
        ("<p>one<br>\n two</p><p>three", "one\ntwo\n\nthree"),
        ("<ul><li>a</li><li><p>b</p><p>c</p></li></ul><p>d</p>", "- a\n\n- b\n\nc\n\nd"),
        ("<ol><li>a<ul><li>b</li></ul></li><li>c</li></ol>", "1. a\n\n  - b\n\n2. c"),
        ("<ol><li></li></ol>x</li></ul>", "x"),
        ("<pre>  x = 1\n\n  y</pre>", "```\n  x = 1\n\n  y\n```"),
        ("<pre>```\na\n```</pre>", "````\n```\na\n```\n````"),
        ("<pre><code></code></pre>", ""),
        ("<pre>never closed", "```\nnever closed\n```"),
        ('<a href="u">link</a> <em>and</em> <code>f()</code>', "link and `f()`"),
        ("<table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>", "a b\n\n1 2"),
        ("<!-- language: c -->x", "x"),
        ("\0a < b <c", "a < b <c"),
        ("", ""),
    ],
)
def test_html(html, text):
    assert text_of_html(html) == text


def test_html_that_the_parser_refuses_is_refused_or_read():
    row = example("stack_exchange", question="<![what[")
    kept, losses = converted("stack_exchange", row)
    assert kept or [reason for reason, _ in losses] == ["wrong_type"]
