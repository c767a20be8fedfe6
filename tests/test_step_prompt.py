"""Where a process model reads a step: behind all that leads to it, in front of its verdict, whatever the text says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from useful_code.reasons import RowRefused
from useful_code.render import read_template, render
from useful_code.step_prompt import TagForm, join_steps, tag_form, verdict_form
from useful_code.tiny import STYLES, byte_tokenizer
from useful_code.user_errors import UserError

# As Qwen3's: an empty thought stands in the last assistant turn, and only where no question follows it.
THOUGHT = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and loop.index0 > ns.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]{% else %} {{ m['content'] }}{{ eos_token }}"
    "{% endif %}{% endfor %}"
)
STEPS = ["Step 1: 1 + 1 = 2.", "2 - 1 = 1, a +", "So\n\n1 ки"]


def templated(style: str):
    """The template of a style, or one of the two above on the tokenizer of its family."""
    tokenizer = byte_tokenizer({"thought": "chatml", "inst": "gemma"}.get(style, style))
    tokenizer.chat_template = {"thought": THOUGHT, "inst": INST}.get(style, tokenizer.chat_template)
    return read_template(tokenizer)


FORMS = {style: verdict_form(templated(style)) for style in (*STYLES, "thought", "inst")}
TAGS = {style: tag_form(byte_tokenizer(style)) for style in STYLES}


def up_to(prompt: str, steps: list[str], signs: str) -> list[dict]:
    """The chat in front of the verdict on the last of these steps, as a user of the model would write it."""
    turns = [{"role": "user", "content": f"{prompt} {steps[0]}"}]
    for sign, step in zip(signs, steps[1:], strict=False):
        turns += [{"role": "assistant", "content": sign}, {"role": "user", "content": step}]
    return turns


# --- verdicts ---


@pytest.mark.parametrize("style", [*STYLES, "thought"])
@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_a_place_is_the_end_of_the_prompt_that_asks_for_the_verdict(style, num_steps):
    """METHODS 7.9, checks 1 and 3: first, middle and last step, each against the template's own generation prompt."""
    form = FORMS[style]
    ids, places = form.read("1 + 1 - 1?", STEPS[:num_steps])
    assert len(places) == num_steps and places[-1] == len(ids) - 1
    for t, place in enumerate(places):
        asked = render(form.template, up_to("1 + 1 - 1?", STEPS[: t + 1], "+++"), add_generation_prompt=True)
        assert ids[: place + 1].tolist() == asked


def test_places_without_a_generation_prompt_are_found_too():
    """Mistral writes no assistant header: a space and the verdict stand behind [/INST]."""
    form = FORMS["inst"]
    ids, places = form.read("1 + 1?", STEPS)
    tokenizer = form.template.tokenizer
    for t, place in enumerate(places):
        *before, space = ids[: place + 1]
        assert before == render(form.template, up_to("1 + 1?", STEPS[: t + 1], "+++"))
        assert tokenizer.decode([space]) == " " and (place == places[-1] or tokenizer.decode([ids[place + 1]]) == "+")


def test_a_template_of_one_question_only_is_one_clear_error():
    """Before any row is read: no solution could be written with it."""
    tokenizer = byte_tokenizer("chatml")
    tokenizer.chat_template = (
        "{% if messages | length > 2 %}{{ raise_exception('one question only') }}{% endif %}" + tokenizer.chat_template
    )
    with pytest.raises(UserError, match="cannot write a chat of steps: .*one question only"):
        verdict_form(read_template(tokenizer))


@pytest.mark.parametrize(("style", "behind"), [("llama3", 2), ("gemma", 3), ("chatml", 3)])
def test_the_fixed_position_minus_3_would_be_wrong(style, behind):
    """Fault 1 of METHODS 7.8: the verdict and the end of its turn are behind a place, 2 tokens in Llama-3; elsewhere a
    line break more, so that -3 is the verdict itself."""
    form = FORMS[style]
    ids, places = form.read("1 + 1?", STEPS)
    whole = render(form.template, [*up_to("1 + 1?", STEPS, "++"), {"role": "assistant", "content": "+"}])
    assert len(whole) - 1 - places[-1] == behind and whole[: len(ids)] == ids.tolist()
    assert whole[places[-1] + 1] == form.token_ids[1] and (whole[-3] == form.token_ids[1]) == (style != "llama3")


def test_the_empty_thought_of_a_last_turn_is_never_read():
    assert "<think>" not in FORMS["thought"].template.tokenizer.decode(FORMS["thought"].read("1?", STEPS).ids)


@pytest.mark.parametrize("style", FORMS)
def test_history_changes_the_earlier_verdicts_and_nothing_else(style):
    """The verdict on the last step is not in the ids, so its label cannot be."""
    form = FORMS[style]
    minus, plus = form.token_ids
    ids, places = form.read("1?", STEPS)
    assert [ids[place + 1] for place in places[:-1]] == [plus, plus]
    other, same = form.read("1?", STEPS, history=[False, True, False])
    assert same == places and other[places[0] + 1] == minus
    assert [i for i in range(len(ids)) if ids[i] != other[i]] == [places[0] + 1]
    asked = render(form.template, up_to("1?", STEPS, "-+"), add_generation_prompt=style != "inst")
    assert other[: len(asked)].tolist() == asked


AWKWARD = st.sampled_from(
    ["+", "-", " + ", "ки", "\n", "\n\n", "a", "2", "Step 1", "Step 10", " ", "é", "<think>", "[INST]", "[/INST]", "."]
    + [token for _, tokens, _ in STYLES.values() for token in tokens]
)
TEXTS = st.lists(AWKWARD, min_size=1, max_size=5).map("".join).filter(str.strip)


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=4), st.sampled_from(sorted(FORMS)))
def test_no_text_of_a_step_is_a_verdict(prompt, steps, style):
    """METHODS 7.9, check 8: as many places as steps; of all ids only the verdicts change with the history; no special
    token more than in a solution of plain words."""
    form = FORMS[style]
    ids, places = form.read(prompt, steps)
    assert len(places) == len(steps) and len(set(places)) == len(steps)
    turned, _ = form.read(prompt, steps, history=[False] * len(steps))
    assert [i for i in range(len(ids)) if ids[i] != turned[i]] == [place + 1 for place in places[:-1]]
    special = set(form.template.tokenizer.all_special_ids)
    plain, _ = form.read("a", ["b"] * len(steps))
    assert sum(token in special for token in ids) == sum(token in special for token in plain)


@given(TEXTS, st.lists(TEXTS, min_size=2, max_size=5), st.sampled_from(sorted(FORMS)), st.data())
def test_the_first_steps_are_read_the_same_whatever_follows(prompt, steps, style, data):
    """One pass over K steps can stand for K passes only if this holds."""
    num = data.draw(st.integers(1, len(steps) - 1))
    forms = [FORMS[style], *([TAGS[style]] if style in TAGS else [])]
    for form in forms:
        ids, places = form.read(prompt, steps)
        fewer, first_places = form.read(prompt, steps[:num])
        assert places[:num] == first_places and ids[: len(fewer)] == fewer


@pytest.mark.parametrize("form", [*FORMS.values(), *TAGS.values()])
def test_ten_steps_keep_all_ten(form):
    """METHODS 7.9, check 9; the original cut at "Step 1", which also begins "Step 10" (fault 6)."""
    steps = [f"Step {number}: {number} + 1 - 1" for number in range(1, 12)]
    ids, places = form.read("Count.", steps)
    text = (form.tokenizer if isinstance(form, TagForm) else form.template.tokenizer).decode(ids)
    assert len(places) == 11 and all(step in text for step in steps)


@pytest.mark.parametrize("form", [FORMS["chatml"], TAGS["gemma"]])
def test_a_solution_over_the_limit_is_refused_and_never_cut(form):
    ids, places = form.read("1?", STEPS)
    assert form.read("1?", STEPS, max_length_tokens=len(ids)) == (ids, places)
    with pytest.raises(RowRefused) as refused:
        form.read("1?", STEPS, max_length_tokens=len(ids) - 1)
    assert refused.value.reason == "over_max_length"


# --- tokenizers that do not keep verdicts apart ---


def merging(template: str, *merges: tuple[str, str]) -> PreTrainedTokenizerFast:
    """Bytes, and these pairs of them as one token; no special tokens and no splitting into words."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = [*alphabet, *("".join(merge) for merge in merges)]
    bpe = models.BPE(vocab={symbol: i for i, symbol in enumerate(vocabulary)}, merges=list(merges))
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    fast.chat_template = "{% for m in messages %}" + template + "{% endfor %}"
    return fast


def test_a_sign_that_grows_together_with_what_follows_is_refused():
    """Only "+" and the line break are one token: then the two conversations differ in length."""
    tokenizer = merging("{{ m['role'] }}: {{ m['content'] }}\n", ("+", "Ċ"))
    with pytest.raises(UserError, match="does not write the verdicts \\+ and - as one token each"):
        verdict_form(read_template(tokenizer))


def test_signs_that_grow_together_in_the_same_way_are_verdicts():
    """As "▁+" of SentencePiece: both signs with the space before them, so the place is in front of that token."""
    tokenizer = merging("{{ m['role'] }}: {{ m['content'] }}\n", ("Ġ", "+"), ("Ġ", "-"))
    form = verdict_form(read_template(tokenizer))
    assert tokenizer.convert_ids_to_tokens(list(form.token_ids)) == ["Ġ-", "Ġ+"]
    ids, places = form.read("1 + 1?", ["It is + 2.", "So 2."])
    assert len(places) == 2 and ids[places[0] + 1] == form.token_ids[1]
    text = "".join(tokenizer.convert_ids_to_tokens(ids[: places[0] + 1].tolist()))
    assert text == "user:Ġ1Ġ+Ġ1?ĠItĠisĠ+Ġ2.Ċassistant:"


def test_a_verdict_that_grows_together_with_one_step_refuses_that_solution():
    """No header stands between step and verdict here, and "2+" is one token while "2-" is two."""
    form = verdict_form(read_template(merging("{{ m['content'] }}", ("2", "+"))))
    assert len(form.read("1 + 1?", ["It is two", "yes"]).places) == 2
    with pytest.raises(RowRefused) as refused:
        form.read("1 + 1?", ["It is 2", "yes"])
    assert refused.value.reason == "verdict_lost"


# --- tags ---


@pytest.mark.parametrize("separator", ["\n", " ки\n", "\n\n\n"])
@pytest.mark.parametrize("style", STYLES)
def test_tags_stand_as_trl_puts_them(style, separator):
    """By hand as TRL's PRMTrainer: BOS where there is one, the problem, and each step encoded alone with the separator
    behind it; the label of a step is at the last token of its separator, and everywhere else is none."""
    tokenizer = byte_tokenizer(style)
    ids, places = tag_form(tokenizer, separator).read("1 + 1?", ["It is 2.", "So 2."])
    expected = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    expected += tokenizer.encode("1 + 1?", add_special_tokens=False)
    labels = [-100] * len(expected)
    for step in ("It is 2.", "So 2."):
        step_ids = tokenizer.encode(step, add_special_tokens=False)
        step_ids += tokenizer.encode(separator, add_special_tokens=False)
        expected += step_ids
        labels += [-100] * (len(step_ids) - 1) + [1]
    assert ids.tolist() == expected and list(places) == [i for i, label in enumerate(labels) if label == 1]


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=4), st.sampled_from(sorted(TAGS)))
def test_no_text_of_a_step_is_a_tag_or_a_special_token(prompt, steps, style):
    """METHODS 7.9, check 8: line breaks and special tokens in a step are text."""
    form = TAGS[style]
    ids, places = form.read(prompt, steps)
    assert len(places) == len(steps) and places[-1] == len(ids) - 1
    bos = form.tokenizer.bos_token_id
    assert [token for token in ids if token in form.tokenizer.all_special_ids] == ([] if bos is None else [bos])
    skip = 0 if bos is None else 1
    assert form.tokenizer.decode(ids[skip:]) == prompt + "".join(f"{step}\n" for step in steps)


def test_reading_tags_leaves_the_tokenizer_as_it_was():
    """Special tokens are text in a solution only: the chat templates of other code go on as before."""
    tokenizer = byte_tokenizer("chatml")
    before = tokenizer("<|im_end|>", add_special_tokens=False).input_ids
    TagForm(tokenizer).read("<|im_end|>", ["<|im_end|>"])
    assert tokenizer("<|im_end|>", add_special_tokens=False).input_ids == before and len(before) == 1


def test_a_separator_without_a_token_is_refused():
    with pytest.raises(UserError, match="has no token for the separator ''"):
        tag_form(byte_tokenizer(), "")


def test_a_whole_solution_is_read_line_by_line():
    assert join_steps(["a", "b"]) == "a\nb"
