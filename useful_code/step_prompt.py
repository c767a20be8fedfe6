"""How a process reward model reads a solution: its token ids, and the place where the score of each step is read.

Two forms, both read with one forward pass over the whole solution (METHODS 7.3):

- verdicts (RLHFlow): a chat in which the user's turns are the steps, the first behind the problem and a space, and the
  assistant answers + or - to each. A step's score is read where its verdict would be written next.
- tags (TRL's PRMTrainer, `trl-lib`): BOS, the problem, and every step with a separator behind it, as plain text. A
  step's score is read at the last token of its separator.

What comes after a place is not seen at it, so scores of the first steps do not change as a solution goes on. Earlier
verdicts are seen: they are all + unless labels are put there. Text of a step can neither be a verdict nor a special
token. An outcome model in the form of verdicts reads the whole solution as one step.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from useful_code.reasons import RowRefused
from useful_code.render import Message, Template, render, render_within
from useful_code.user_errors import UserError

SIGNS = ("-", "+")  # in the order of labels, wrong and right
# A template may write the last turn of a conversation in another way than earlier ones (Qwen3: an empty thought), so
# that the score of a step would depend on whether more follow. With this turn behind it no verdict is the last.
_NEXT_TURN: Message = {"role": "user", "content": "."}


class StepIds(NamedTuple):
    """Token ids of a solution up to the last place, and the places (indices in `ids`) where its scores are read."""

    ids: array
    places: tuple[int, ...]


@dataclass(frozen=True)
class VerdictForm:
    """Verdicts in a chat; `token_ids` are those of - and +, as the template writes them."""

    template: Template
    token_ids: tuple[int, int]

    def read(
        self,
        prompt: str,
        steps: Sequence[str],
        history: Sequence[bool] | None = None,
        max_length_tokens: int | None = None,
    ) -> StepIds:
        """A solution whose history holds the verdicts `history`, + for True; None: + everywhere.

        Raises RowRefused: "verdict_lost" where the verdicts do not stand as tokens of their own, "over_max_length",
        and what `render` refuses.

        >>> from useful_code.render import read_template
        >>> from useful_code.tiny import byte_tokenizer
        >>> form = verdict_form(read_template(byte_tokenizer("chatml")))
        >>> ids, places = form.read("1 + 1?", ["It is 2.", "So 2."])
        >>> [form.template.tokenizer.decode(ids[place + 1]) for place in places[:-1]], places[-1] == len(ids) - 1
        (['+'], True)
        """
        minus, plus = (render(self.template, _turns(prompt, steps, sign)) for sign in SIGNS)
        verdicts = [place for place, pair in enumerate(zip(minus, plus, strict=False)) if pair[0] != pair[1]]
        if (
            len(minus) != len(plus)
            or len(verdicts) != len(steps)
            or any((minus[place], plus[place]) != self.token_ids for place in verdicts)
        ):
            raise RowRefused(
                "verdict_lost", f"{len(steps)} steps, {len(verdicts)} verdicts that are tokens of their own"
            )
        _check_length(verdicts[-1], max_length_tokens)
        for place, is_plus in zip(verdicts, history or (), strict=False):
            if not is_plus:
                plus[place] = minus[place]
        return StepIds(array("i", plus[: verdicts[-1]]), tuple(place - 1 for place in verdicts))


@dataclass(frozen=True)
class TagForm:
    """Plain text with a separator behind every step; `tokenizer` needs no chat template."""

    tokenizer: Any
    separator: str = "\n"

    def read(
        self,
        prompt: str,
        steps: Sequence[str],
        history: Sequence[bool] | None = None,
        max_length_tokens: int | None = None,
    ) -> StepIds:
        """A solution; there are no verdicts, so `history` says nothing. Raises RowRefused("over_max_length").

        >>> from useful_code.tiny import byte_tokenizer
        >>> ids, places = TagForm(byte_tokenizer("gemma")).read("1 + 1?", ["It is 2.", "So 2."])
        >>> byte_tokenizer("gemma").decode(ids), places
        ('<bos>1 + 1?It is 2.\\nSo 2.\\n', (15, 21))
        """
        bos = self.tokenizer.bos_token_id
        ids = ([] if bos is None else [bos]) + self._encode(prompt)
        # The separator may be a special token, as with some of TRL's models; text of a problem or step never is.
        separator, places = self.tokenizer(self.separator, add_special_tokens=False).input_ids, []
        for step in steps:
            ids += self._encode(step) + separator
            places.append(len(ids) - 1)
        _check_length(len(ids), max_length_tokens)
        return StepIds(array("i", ids), tuple(places))

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids


StepForm = VerdictForm | TagForm


def verdict_form(template: Template) -> VerdictForm:
    """Find + and - in rendered conversations. Raises `UserError` where they are no tokens of their own, or where the
    template does not write a second question."""
    try:
        minus, plus = (render(template, _turns("problem", ["step"], sign)) for sign in SIGNS)
    except RowRefused as refused:
        raise UserError(
            f"the chat template of {template.tokenizer.name_or_path!r} cannot write a chat of steps: {refused}; train "
            "with --form tags"
        ) from refused
    different = [pair for pair in zip(minus, plus, strict=False) if pair[0] != pair[1]]
    if len(minus) != len(plus) or len(different) != 1:
        raise UserError(
            f"{template.tokenizer.name_or_path!r} does not write the verdicts + and - as one token each; train with "
            "--form tags"
        )
    return VerdictForm(template, different[0])


def tag_form(tokenizer: Any, separator: str = "\n") -> TagForm:
    r"""The form of tags; a backslash and n, as typed in a shell, is a line end. Raises `UserError` for a separator that
    has no token.

    >>> from useful_code.tiny import byte_tokenizer
    >>> tag_form(byte_tokenizer(), "\\n\\n").separator == "\n\n"
    True
    """
    form = TagForm(tokenizer, separator.replace("\\n", "\n").replace("\\t", "\t"))
    if not tokenizer(form.separator, add_special_tokens=False).input_ids:
        raise UserError(f"{tokenizer.name_or_path!r} has no token for the separator {separator!r}; give another")
    return form


def join_steps(steps: Sequence[str]) -> str:
    """The solution as one text, as outcome models read it: a line for every step."""
    return "\n".join(steps)


def read_outcome(
    form: VerdictForm | Template, prompt: str, steps: Sequence[str], max_length_tokens: int | None = None
) -> StepIds:
    """The whole solution and the one place where an outcome model judges it: a verdict behind all of it, or, with a
    `Template`, the last token of the chat, for a scalar head. RowRefused as `read` and `render_within` raise it."""
    if isinstance(form, VerdictForm):
        return form.read(prompt, [join_steps(steps)], max_length_tokens=max_length_tokens)
    chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": join_steps(steps)}]
    ids = render_within(form, chat, max_length_tokens)
    return StepIds(ids, (len(ids) - 1,))


def _turns(prompt: str, steps: Sequence[str], sign: str) -> list[Message]:
    turns: list[Message] = []
    for place, step in enumerate(steps):
        turns.append({"role": "user", "content": step if place else f"{prompt} {step}"})
        turns.append({"role": "assistant", "content": sign})
    return [*turns, _NEXT_TURN]


def _check_length(num_tokens: int, max_length_tokens: int | None) -> None:
    if max_length_tokens is not None and num_tokens > max_length_tokens:
        raise RowRefused("over_max_length", f"{num_tokens} tokens, the limit is {max_length_tokens}")
