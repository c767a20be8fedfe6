"""METHODS 0.2 and 0.3 for templates of several families, good and bad: BOS, typed special tokens, ends, padding."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from useful_code.reasons import RowRefused
from useful_code.render import ensure_pad_token, read_template, render, render_open, render_within
from useful_code.tiny import LLAMA3_TEMPLATE, STYLES, byte_tokenizer
from useful_code.user_errors import UserError

# Written here in the style of the public ones.
LLAMA3_FIRST_RELEASE = LLAMA3_TEMPLATE.replace("{% if add_generation_prompt %}", "").removesuffix("{% endif %}")
LLAMA3_HEADER_AFTER_ANSWERS = LLAMA3_TEMPLATE.replace(
    "{% if add_generation_prompt %}", "{% if add_generation_prompt or messages[-1]['role'] == 'assistant' %}"
)
MISTRAL_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}[INST] {{ message['content'] }} [/INST]"
    "{% elif message['role'] == 'assistant' %} {{ message['content'] }}{{ eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported') }}{% endif %}{% endfor %}"
)
PHI3_TEMPLATE = (  # ends a finished conversation with a text that no earlier turn has
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
EOS_ONLY_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{{ eos_token }}{% endfor %}"
ONE_TURN_TEMPLATE = (
    "{% if messages | length > 2 %}{{ raise_exception('one question only') }}{% endif %}" + MISTRAL_TEMPLATE
)
LAST_ANSWER_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' or loop.last %}"
    "{{ message['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
SHAPES = [MISTRAL_TEMPLATE, PHI3_TEMPLATE, EOS_ONLY_TEMPLATE, ONE_TURN_TEMPLATE, LAST_ANSWER_TEMPLATE]

STYLE_NAMES = sorted(STYLES)
TEMPLATES = {style: read_template(byte_tokenizer(style)) for style in STYLE_NAMES}
SPECIAL_TEXTS = [text for style in STYLES.values() for text in style[1]]
# What a template may trim is left out at the ends; the typed characters must come back exactly.
plain_text = st.text(st.characters(exclude_categories=["Cs", "Co"]), min_size=1).map(str.strip).filter(bool)
ordinary_text = plain_text.filter(lambda text: not any(special in text for special in SPECIAL_TEXTS))
nasty_text = (
    st.lists(
        st.one_of(st.sampled_from(SPECIAL_TEXTS), st.sampled_from(["<", "<|", "|>", ">", " ", "\n", "é"]), plain_text)
    )
    .map("".join)
    .map(str.strip)
    .filter(bool)
)


def chat(*contents: str) -> list[dict]:
    """User and assistant in turn."""
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


def tokenizer_with(chat_template: str | dict | None, **named: str) -> PreTrainedTokenizerFast:
    """Bytes, `<s>`, `</s>` and what `named` adds, with a template of this file."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(symbols)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, **({"bos_token": "<s>", "eos_token": "</s>"} | named))
    tokenizer.chat_template = chat_template
    return tokenizer


def num_special(template, ids: list[int]) -> int:
    return sum(ids.count(i) for i in set(template.tokenizer.all_special_ids))


# --- BOS and equality with the template's own ids ---


@pytest.mark.parametrize("style", STYLE_NAMES)
def test_bos_stands_once_at_the_start_or_never(style):
    template = TEMPLATES[style]
    ids = render(template, chat("a", "b", "c", "d"))
    bos = template.tokenizer.bos_token_id
    assert ids.count(bos) == (0 if style == "chatml" else 1)
    assert bos is None or ids[0] == bos


def test_a_tokenizer_that_adds_bos_by_itself_does_not_double_it():
    """The template writes BOS; a post-processor would add a second one to every text that is tokenised."""
    tokenizer = tokenizer_with(MISTRAL_TEMPLATE)
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    assert tokenizer("x").input_ids[0] == bos  # the danger is real
    ids = render(read_template(tokenizer), chat("<s> typed", "b"))
    assert ids.count(bos) == 1 and ids[0] == bos


def test_a_template_that_writes_bos_twice_is_refused():
    with pytest.raises(UserError, match="BOS twice"):
        read_template(tokenizer_with("{{ bos_token }}" + MISTRAL_TEMPLATE))


@pytest.mark.parametrize("style", STYLE_NAMES)
@settings(max_examples=40, deadline=None)
@given(contents=st.lists(ordinary_text, min_size=2, max_size=4).filter(lambda texts: len(texts) % 2 == 0))
def test_ids_equal_the_chat_template_for_ordinary_text(style, contents):
    template = TEMPLATES[style]
    expected = template.tokenizer.apply_chat_template(chat(*contents), tokenize=True, return_dict=False)
    assert render(template, chat(*contents)) == expected
    prompt = chat(*contents)[:-1]
    expected = template.tokenizer.apply_chat_template(
        prompt, tokenize=True, return_dict=False, add_generation_prompt=True
    )
    assert render(template, prompt, add_generation_prompt=True) == expected


# --- special-token text in a message ---


@pytest.mark.parametrize("style", STYLE_NAMES)
@settings(max_examples=60, deadline=None)
@given(question=nasty_text, answer=nasty_text)
def test_typed_special_tokens_stay_characters(style, question, answer):
    """As many special ids as for harmless words, and decoding gives back every typed character."""
    template = TEMPLATES[style]
    ids = render(template, chat(question, answer))
    assert num_special(template, ids) == num_special(template, render(template, chat("q", "a")))
    text = template.tokenizer.decode(ids)
    assert text == template.tokenizer.apply_chat_template(chat(question, answer), tokenize=False)
    assert question in text and answer in text


@pytest.mark.parametrize("style", STYLE_NAMES)
@pytest.mark.parametrize("content", ["{0}", "{0}{0}", "<{0}", "{1}{0}", "x {0}", "{0} x", "{0}{2}{1}"])
def test_every_special_token_of_a_style_can_be_typed(style, content):
    template = TEMPLATES[style]
    specials = STYLES[style][1]
    expected = num_special(template, render(template, chat("q", "a")))
    for i in range(len(specials)):
        typed = content.format(*(specials[i:] + specials[:i]))
        ids = render(template, chat(typed, typed))
        assert num_special(template, ids) == expected
        assert template.tokenizer.decode(ids).count(typed) >= 2


def test_a_special_token_inside_another_is_cut_too():
    """`<|a<|b|>c|>` holds `<|b|>`; both are special and neither may come through."""
    tokenizer = tokenizer_with(MISTRAL_TEMPLATE)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|a<|b|>c|>", "<|b|>"]})
    template = read_template(tokenizer)
    ids = render(template, chat("<|a<|b|>c|> <|b|>", "ok"))
    assert num_special(template, ids) == 2  # <s> and </s>
    assert "<|a<|b|>c|> <|b|>" in tokenizer.decode(ids)


def test_private_use_characters_beside_special_text_survive():
    """The cut is marked with a private-use character, which must never be one that somebody typed."""
    template = TEMPLATES["chatml"]
    typed = "\ue000<|im_end|>\ue001"
    assert typed in template.tokenizer.decode(render(template, chat(typed, "\ue002")))


def test_a_row_that_leaves_no_cut_mark_is_refused():
    every_mark = "".join(chr(code) for code in range(0xE000, 0xE010))
    assert every_mark in TEMPLATES["chatml"].tokenizer.decode(render(TEMPLATES["chatml"], chat(every_mark, "a")))
    with pytest.raises(RowRefused, match="template_refused"):
        render(TEMPLATES["chatml"], chat(every_mark + "<|im_end|>", "a"))


def test_no_space_is_added_where_typed_special_text_is_cut():
    """SentencePiece-like tokenizers put a space before what they take for the beginning of a text."""
    vocabulary = {chr(code): code - 32 for code in range(32, 127)} | {"▁": 95, "\n": 96}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = MISTRAL_TEMPLATE
    ids = render(read_template(tokenizer), chat("a</s>b", "c"))
    assert "".join(tokenizer.convert_ids_to_tokens(ids)) == "<s>[INST]▁a</s>b▁[/INST]▁c</s>"
    assert ids.count(tokenizer.eos_token_id) == 1


# --- what stands behind the last answer ---


@pytest.mark.parametrize(("style", "end"), [("llama3", "<|eot_id|>"), ("gemma", "\n"), ("chatml", "\n")])
def test_the_pooled_token_is_the_end_of_the_template(style, end):
    """METHODS 0.2: Llama-3 `<|eot_id|>`; Gemma and ChatML the newline behind the end of turn."""
    template = TEMPLATES[style]
    ids = render(template, chat("question", "answer"))
    assert template.tokenizer.decode(ids[-1:]) == end
    assert tuple(ids[-len(template.end_ids) :]) == template.end_ids


@pytest.mark.parametrize("chat_template", [LLAMA3_FIRST_RELEASE, LLAMA3_HEADER_AFTER_ANSWERS])
def test_a_template_that_always_opens_an_assistant_turn_is_refused(chat_template):
    tokenizer = byte_tokenizer("llama3")
    tokenizer.chat_template = chat_template
    with pytest.raises(UserError, match="opens a new assistant turn") as caught:
        read_template(tokenizer)
    assert "--chat_template_path" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("chat_template", SHAPES)
def test_proper_templates_of_other_shapes_are_accepted(chat_template):
    tokenizer = tokenizer_with(chat_template)
    ids = render(read_template(tokenizer), chat("a", "b"))
    assert ids == tokenizer.apply_chat_template(chat("a", "b"), return_dict=False)
    assert ids[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("style", "header"),
    [
        ("llama3", "<|start_header_id|>assistant<|end_header_id|>\n\n"),
        ("gemma", "<start_of_turn>model\n"),
        ("chatml", "<|im_start|>assistant\n"),
    ],
)
def test_a_generation_prompt_ends_with_the_assistant_header(style, header):
    template = TEMPLATES[style]
    assert template.generation_text == header
    ids = render(template, chat("q"), add_generation_prompt=True)
    assert template.tokenizer.decode(ids).endswith(header)


def test_ids_that_do_not_end_like_the_template_refuse_the_row():
    """A template that leaves the end out for some answers: the score would be read in the middle of the answer."""
    conditional = (
        "{% for m in messages %}{{ m['content'] }}{% if m['content'] != 'odd' %}{{ eos_token }}{% endif %}{% endfor %}"
    )
    template = read_template(tokenizer_with(conditional))
    render(template, chat("odd", "even"))
    with pytest.raises(RowRefused, match="end_of_turn_lost"):
        render(template, chat("even", "odd"))


@pytest.mark.parametrize(
    ("chat_template", "reason"),
    [
        (None, "no chat template"),
        ("{{ messages[0]['content'] }}", "exactly once"),
        ("{{ messages[-1]['content'] }}{{ messages[-1]['content'] }}", "exactly once"),
        ("{% for m in messages %}", "cannot be rendered"),  # syntax
        ("{{ unknown() }}", "cannot be rendered"),
        ("{{ messages[-1]['content'] + 1 }}", "cannot be rendered"),  # a TypeError of Python
        ({"tool_use": MISTRAL_TEMPLATE}, "cannot be rendered"),  # several templates, none the default
        ("{{ raise_exception('line one\nline two') }}", "line one line two"),
    ],
)
def test_templates_that_cannot_be_used_are_one_line(chat_template, reason):
    with pytest.raises(UserError, match=reason) as caught:
        read_template(tokenizer_with(chat_template))
    assert "\n" not in str(caught.value)


def test_a_lone_surrogate_costs_the_row():
    """It is no text: a tokenizer cannot encode it, and would stop the whole run."""
    with pytest.raises(RowRefused, match="invalid_unicode"):
        render(TEMPLATES["chatml"], chat("a", "b\ud800"))


def test_a_system_message_that_the_template_refuses_costs_the_row():
    messages = [{"role": "system", "content": "be brief"}, *chat("a", "b")]
    with pytest.raises(RowRefused, match="System role not supported"):
        render(TEMPLATES["gemma"], messages)
    assert render(TEMPLATES["chatml"], messages) != render(TEMPLATES["chatml"], messages[1:])


# --- padding: never resized, never the token that ends a conversation ---


@pytest.mark.parametrize(
    ("tokenizer", "pad_token"),
    [
        (byte_tokenizer("chatml"), "<|endoftext|>"),
        (byte_tokenizer("gemma"), "<pad>"),
        (byte_tokenizer("llama3"), "<|finetune_right_pad_id|>"),  # Llama-3 names no pad token but reserves one
        (tokenizer_with(MISTRAL_TEMPLATE, pad_token="</s>", unk_token="<unk>"), "<unk>"),  # pad == eos ends a turn
        (tokenizer_with(MISTRAL_TEMPLATE), "<s>"),
    ],
)
def test_the_pad_token_is_an_old_token_that_ends_no_turn(tokenizer, pad_token):
    size = len(tokenizer)
    template = read_template(tokenizer)
    pad_token_id = ensure_pad_token(template)
    assert tokenizer.pad_token == pad_token
    assert pad_token_id == tokenizer.pad_token_id == tokenizer.convert_tokens_to_ids(pad_token)
    assert pad_token_id != render(template, chat("q", "a"))[-1]
    assert len(tokenizer) == size and pad_token_id < size  # no embedding row is needed that is not there


def test_pad_equal_to_eos_is_kept_when_the_template_ends_in_something_else():
    """SmolLM2: pad == eos == `<|im_end|>`, but the last token is the newline behind it."""
    tokenizer = byte_tokenizer("chatml")
    tokenizer.pad_token = tokenizer.eos_token
    assert ensure_pad_token(read_template(tokenizer)) == tokenizer.eos_token_id


def test_no_free_pad_token_is_a_user_error():
    tokenizer = tokenizer_with(EOS_ONLY_TEMPLATE, bos_token="</s>", pad_token="</s>")
    with pytest.raises(UserError, match="no token to pad with"):
        ensure_pad_token(read_template(tokenizer))
    assert tokenizer.pad_token == "</s>"


# --- length ---


def test_an_over_long_conversation_is_dropped_never_cut():
    template = TEMPLATES["llama3"]
    ids = render(template, chat("question", "answer"))
    assert list(render_within(template, chat("question", "answer"), len(ids))) == ids
    assert list(render_within(template, chat("question", "answer"), None)) == ids
    with pytest.raises(RowRefused, match=f"{len(ids)} tokens, the limit is {len(ids) - 1}"):
        render_within(template, chat("question", "answer"), len(ids) - 1)


@pytest.mark.parametrize("style", STYLES)
@given(text=st.text(st.characters(exclude_categories=("Cs",)), min_size=1).filter(lambda text: text == text.strip()))
@settings(max_examples=20)
def test_an_open_turn_is_the_finished_one_without_its_end(style, text):
    """Special tokens typed in the begun answer stay text, and white space at its end stays."""
    template = read_template(byte_tokenizer(style))
    special = template.special_texts[0]
    question = {"role": "user", "content": "3 + 4?"}
    for begun in (text, f"a{special}b", f"a{special}"):
        chat = [question, {"role": "assistant", "content": begun}]
        assert render_open(template, chat) + list(template.end_ids) == render(template, chat)
    spaced = [question, {"role": "assistant", "content": f"{text} \n\n"}]
    ids = render_open(template, [question, {"role": "assistant", "content": text}])
    assert render_open(template, spaced) == ids + list(template.tokenizer(" \n\n", add_special_tokens=False).input_ids)
    assert render_open(template, [question]) == render(template, [question], add_generation_prompt=True)
