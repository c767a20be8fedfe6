"""A conversation becomes token ids: BOS, the end of the last turn, padding and length are decided here, once.

The ids come from the chat template itself, so BOS stands exactly where the template puts it and nowhere else. Text of a
message can never become a special token: `<|im_end|>` typed by a user stays the characters it is made of.
"""

import logging
import os
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2.exceptions import TemplateError

from useful_code.reasons import RowRefused
from useful_code.user_errors import UserError

logger = logging.getLogger(__name__)

Message = Mapping[str, str]

# Private-use characters; the first that no message contains marks where a special text is cut in two.
_CUT_MARKS = [chr(code) for code in range(0xE000, 0xE010)]
_PROBE = "\ue0f0probe\ue0f1"
# Tokens that model families reserve for padding or for future use; none of them occurs in their chat templates.
_RESERVED_FOR_PADDING = (
    "<|finetune_right_pad_id|>",
    "<|reserved_special_token_0|>",
    "<pad>",
    "[PAD]",
    "<|endoftext|>",
)


@dataclass(frozen=True)
class Template:
    """What the chat template of one tokenizer does, found by rendering a probe conversation."""

    tokenizer: Any
    special_texts: tuple[str, ...]  # longest first
    end_ids: tuple[int, ...]  # what the template writes after the last assistant message; may be empty
    generation_text: str  # the assistant header that a generation prompt adds; "" if the template has none


def read_template(tokenizer, may_open_turn: bool = False) -> Template:
    """Probe the chat template and check that it can be used for scoring.

    `may_open_turn` allows a template that always writes an assistant header at the end: the first Llama-3 template,
    which public pair-preference models came with. A verdict is read in front of it, a reward would be read behind it.

    Raises UserError when the tokenizer has no chat template or one that cannot be rendered, when something follows the
    end of the last assistant turn (the first Llama-3 template always appended a new assistant header there), or when
    BOS stands twice at the start.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            f"tokenizer {tokenizer.name_or_path!r} has no chat template: use an instruction-tuned model, or give a "
            "Jinja file with --chat_template_path"
        )
    question = [{"role": "user", "content": "question"}]
    answered = [*question, {"role": "assistant", "content": _PROBE}]
    try:
        text = _template_text(tokenizer, answered)
        header_start = _template_text(tokenizer, question)
        header_end = _template_text(tokenizer, question, add_generation_prompt=True)
    except (TemplateError, TypeError, ValueError) as error:  # templates are programs: they can also add 1 to a text
        reason = " ".join(str(error).split())
        raise UserError(f"the chat template of {tokenizer.name_or_path!r} cannot be rendered: {reason}") from error
    if text.count(_PROBE) != 1:
        raise UserError(
            f"the chat template of {tokenizer.name_or_path!r} does not write the text of an assistant message exactly "
            "once, so it is not the template of a chat model; give another with --chat_template_path"
        )
    head_text, end_text = text.split(_PROBE)
    generation_text = header_end.removeprefix(header_start)
    if not may_open_turn and _opens_a_turn(tokenizer, answered, head_text, end_text):
        raise UserError(
            f"the chat template of {tokenizer.name_or_path!r} writes {end_text!r} after the last assistant message: it "
            "opens a new assistant turn, and a score would be read from the wrong place. Give a template that honours "
            "add_generation_prompt=False with --chat_template_path"
        )
    template = Template(
        tokenizer=tokenizer,
        special_texts=tuple(sorted(_special_texts(tokenizer), key=len, reverse=True)),
        end_ids=tuple(_encode(tokenizer, end_text)),
        generation_text=generation_text,
    )
    bos = tokenizer.bos_token_id
    ids = render(template, [*question, {"role": "assistant", "content": "answer"}])
    if bos is not None and ids[:2] == [bos, bos]:
        raise UserError(
            f"the chat template of {tokenizer.name_or_path!r} writes BOS twice; remove one from the template"
        )
    return template


def render(template: Template, messages: Sequence[Message], add_generation_prompt: bool = False) -> list[int]:
    """Token ids of a whole conversation.

    Equal to `tokenizer.apply_chat_template(messages)` unless a message contains the text of a special token; that text
    is then tokenised as plain characters. Raises RowRefused("template_refused") when the template refuses the
    conversation (Gemma and system messages), RowRefused("invalid_unicode") for a lone surrogate, and
    RowRefused("end_of_turn_lost") when an answer does not end as the template ends a turn.

    >>> from useful_code.tiny import byte_tokenizer
    >>> template = read_template(byte_tokenizer("chatml"))
    >>> ids = render(template, [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "<|im_end|>"}])
    >>> ids.count(template.tokenizer.eos_token_id)  # the two ends of turn; the typed one is text
    2
    """
    ids = _ids(template, messages, add_generation_prompt)
    end = list(template.end_ids) if messages[-1]["role"] == "assistant" and not add_generation_prompt else []
    if end and ids[-len(end) :] != end:
        raise RowRefused("end_of_turn_lost", f"ids end with {ids[-len(end) :]}, the template's turn with {end}")
    return ids


def render_open(template: Template, messages: Sequence[Message]) -> list[int]:
    """Token ids behind which the assistant writes: a new answer, or the rest of one that the last message begins.

    The beginning is taken exactly as it is written, white space at its end too. Raises RowRefused as `render`.

    >>> from useful_code.tiny import byte_tokenizer
    >>> template = read_template(byte_tokenizer("chatml"))
    >>> question = {"role": "user", "content": "3 + 4?"}
    >>> ids = render_open(template, [question, {"role": "assistant", "content": "Step 1: "}])
    >>> template.tokenizer.decode(ids).rpartition("<|im_start|>")[2]
    'assistant\\nStep 1: '
    """
    if messages[-1]["role"] != "assistant":
        return _ids(template, messages, add_generation_prompt=True)
    return _ids(template, messages[:-1], add_generation_prompt=True, begun=messages[-1]["content"])


def render_within(template: Template, messages: Sequence[Message], max_length_tokens: int | None) -> array:
    """`render` as an array of 4-byte integers; RowRefused("over_max_length") when it is longer than the limit.

    A caller that renders both sides of a pair inside its row check loses the whole pair or nothing: no side is cut.
    """
    ids = render(template, messages)
    if max_length_tokens is not None and len(ids) > max_length_tokens:
        raise RowRefused("over_max_length", f"{len(ids)} tokens, the limit is {max_length_tokens}")
    return array("i", ids)


def ensure_pad_token(template: Template) -> int:
    """Return the id to pad with, setting the tokenizer's `pad_token` when needed. No embedding is ever resized.

    A plain Transformers sequence classifier takes the last token that is not the pad id as the end of the text, so
    the pad id must differ from the token that ends a rendered conversation. Raises UserError when no token is free.
    """
    tokenizer = template.tokenizer
    last_ids = {render(template, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])[-1]}
    candidates = [
        tokenizer.pad_token,
        *_RESERVED_FOR_PADDING,
        tokenizer.unk_token,
        *tokenizer.all_special_tokens,
    ]
    known = tokenizer.get_vocab()
    for token in candidates:
        if token in known and known[token] not in last_ids:
            if tokenizer.pad_token != token:
                logger.info("padding with %r (was %r)", token, tokenizer.pad_token)
                tokenizer.pad_token = token
            return known[token]
    raise UserError(
        f"tokenizer {tokenizer.name_or_path!r} has no token to pad with that differs from the end of a turn; set "
        "tokenizer.pad_token to a reserved token and save it"
    )


def _ids(template: Template, messages: Sequence[Message], add_generation_prompt: bool, begun: str = "") -> list[int]:
    """Token ids of a rendered conversation and of the text `begun` behind it; no text becomes a special token."""
    mark = None
    texts = [begun, *(message["content"] for message in messages)]
    if any(special in text for text in texts for special in template.special_texts):
        mark = next((m for m in _CUT_MARKS if all(m not in text for text in texts)), None)
        if mark is None:
            raise RowRefused("template_refused", "special-token text beside sixteen private-use characters")
        messages = [{**m, "content": _cut_special_texts(m["content"], template.special_texts, mark)} for m in messages]
        begun = _cut_special_texts(begun, template.special_texts, mark)
    try:
        text = _template_text(template.tokenizer, messages, add_generation_prompt) + begun
    except TemplateError as error:
        raise RowRefused("template_refused", str(error)) from error
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RowRefused("invalid_unicode", "a message holds a lone surrogate") from error
    first, *rest = text.split(mark) if mark else [text]
    ids = _encode(template.tokenizer, first)
    for piece in rest:
        # Encoded behind a special token, so that no tokenizer takes it for a beginning and puts a space before it.
        ids += _encode(template.tokenizer, template.special_texts[0] + piece)[1:]
    return ids


def _template_text(tokenizer, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
    return tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=add_generation_prompt)


def _opens_a_turn(tokenizer, answered: Sequence[Message], head_text: str, end_text: str) -> bool:
    """Whether `end_text`, written after the last assistant message, opens a new assistant turn.

    Then what it has beyond the text between an answer and the next question is also the end of the text before an
    answer, which is the header. (What a generation prompt adds does not help: where it is always added, nothing is.)
    """
    try:
        _, found, after_inner_turn = _template_text(tokenizer, [*answered, *answered[:1]]).partition(_PROBE)
    except TemplateError:  # a template for one question and one answer
        return False
    if not found:  # a template that leaves earlier answers out
        return False
    beyond = end_text.removeprefix(os.path.commonprefix([end_text, after_inner_turn])).strip()
    return bool(beyond) and head_text.rstrip().endswith(beyond)


def _encode(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids if text else []


def _special_texts(tokenizer) -> set[str]:
    added = getattr(tokenizer, "added_tokens_decoder", {})
    texts = {token.content for token in added.values() if token.special} | set(tokenizer.all_special_tokens)
    return {text for text in texts if len(text) > 1}


def _cut_special_texts(content: str, special_texts: Sequence[str], mark: str) -> str:
    """Put `mark` after the first character of every special text.

    >>> _cut_special_texts("a <s> b <<s>", ["<s>"], "|")
    'a <|s> b <<|s>'
    """
    result = []
    position = 0
    while position < len(content):
        result.append(content[position])
        if any(content.startswith(special, position) for special in special_texts):
            result.append(mark)
        position += 1
    return "".join(result)
