"""The pairwise prompt: its exact string, slots that no text can break, and the verdict where scoring reads it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from useful_code.pair_prompt import LABELS, context_text, ids_to_verdict, pair_text, read_verdicts
from useful_code.reasons import RowRefused
from useful_code.render import read_template, render
from useful_code.tiny import STYLES, byte_tokenizer, word_tokenizer
from useful_code.user_errors import UserError

U1 = [{"role": "user", "content": "U1"}]
CHAT = [*U1, {"role": "assistant", "content": "A1"}, {"role": "user", "content": "U2"}]
MARKS = ["[CONTEXT]", "[RESPONSE A]", "[RESPONSE B]", "<turn> user", "\n", " ", "\\", "[", "]", "x"]
TEXTS = st.lists(st.sampled_from(MARKS), max_size=6).map("".join)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (U1, "[CONTEXT] \n\n<turn> user\n U1\n [RESPONSE A] one [RESPONSE B] two \n"),
        (
            CHAT,
            "[CONTEXT] \n\n<turn> user\n U1\n<turn> assistant\n A1\n<turn> user\n U2\n"
            " [RESPONSE A] one [RESPONSE B] two \n",
        ),
    ],
)
def test_the_prompt_is_the_exact_string(prompt, expected):
    """METHODS 2.2 and 2.9, check 1: what the public pair-preference models were trained on."""
    assert pair_text(prompt, "one", "two") == expected


@given(st.lists(TEXTS, min_size=1, max_size=3), TEXTS, TEXTS)
def test_no_text_opens_or_closes_a_slot(contents, first, second):
    """The marks stand once each, in order, and what lies between them is a different text for different texts."""
    roles = ("user", "assistant", "user")
    prompt = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]
    text = pair_text(prompt, first, second)
    assert [text.count(mark) for mark in ("[CONTEXT]", "[RESPONSE A]", "[RESPONSE B]")] == [1, 1, 1]
    assert text.count("<turn> ") == len(prompt)
    head, rest = text.split(" [RESPONSE A] ")
    slots = rest.removesuffix(" \n").split(" [RESPONSE B] ")
    assert head == f"[CONTEXT] {context_text(prompt)}" and len(slots) == 2
    undone = [slot.replace("[\\", "[", 1) if slot.startswith("[\\") else slot for slot in slots]
    assert (slots[0] == slots[1]) == (first == second) and len(undone) == 2


@given(TEXTS, TEXTS)
def test_texts_without_a_mark_are_written_as_they_are(first, second):
    if not any(mark in first + second for mark in ("CONTEXT", "RESPONSE", "turn")):
        assert f" [RESPONSE A] {first} [RESPONSE B] {second} \n" in pair_text(U1, first, second)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("labels", [LABELS, ("A", "B", "C")])
def test_the_verdict_stands_where_the_loss_mask_of_a_trained_example_begins(style, labels):
    """METHODS 2.9, checks 5 and 6, on templates in the style of Llama-3, Gemma and Qwen (not compared with the hub):
    the ids up to the verdict are those of the prompt with the assistant header; then comes the label's token."""
    template = read_template(byte_tokenizer(style))
    verdicts = read_verdicts(template, labels)
    before = ids_to_verdict(template, verdicts, CHAT, "one", "two").tolist()
    question = {"role": "user", "content": pair_text(CHAT, "one", "two")}
    assert before == render(template, [question], add_generation_prompt=True)
    for label, token in zip(labels, verdicts.token_ids, strict=True):
        trained = render(template, [question, {"role": "assistant", "content": label}])
        assert trained[: len(before) + 1] == [*before, token]
        assert template.tokenizer.decode([token]) == label


def test_labels_of_several_tokens_differ_in_the_first_one():
    template = read_template(byte_tokenizer("llama3"))
    verdicts = read_verdicts(template, ("A", "B", "Same"))
    assert template.tokenizer.decode(list(verdicts.token_ids)) == "ABS" and verdicts.has_tie
    cases = ((("A", "Also"), "beginning of 'Also'"), (("A1", "A2", "B"), "begins two of"), (("A", "A"), "different"))
    for labels, message in (*cases, (("A",), "two or three")):
        with pytest.raises(UserError, match=message):
            read_verdicts(template, labels)


def test_a_tokenizer_that_does_not_know_the_labels_is_refused():
    template = read_template(word_tokenizer(["A"]))
    with pytest.raises(UserError, match="begins two of 'B', 'C'"):
        read_verdicts(template, ("B", "C"))


def test_pairs_that_are_too_long_are_refused_whole():
    template = read_template(byte_tokenizer())
    verdicts = read_verdicts(template)
    length = len(ids_to_verdict(template, verdicts, U1, "one", "two"))
    assert len(ids_to_verdict(template, verdicts, U1, "one", "two", length)) == length
    with pytest.raises(RowRefused, match="over_max_length"):
        ids_to_verdict(template, verdicts, U1, "one", "two", length - 1)
