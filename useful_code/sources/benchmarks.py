"""Evaluation sets whose rows are pairs by construction, or answers that are simply right or wrong.

They are meant for evaluation. Whoever trains on one first drops every prompt that also occurs in an evaluation set
that will be reported (`chat_pairs.drop_prompts`).
"""

import re
from collections.abc import Callable
from typing import Any

from useful_code.reasons import RowRefused
from useful_code.sources.fields import Answer, Converted, Row, ask, field, make_pair, one_of, source_id, text
from useful_code.sources.judged import EVALUATION, joined_ids
from useful_code.sources.source import Source
from useful_code.sources.transcripts import hh_rlhf

_EMPTY_LINES = re.compile(r"\A(?:[^\S\n]*\n)+")


def code(row: Row, key: str) -> str:
    r"""row[key] without empty lines before and white space after it; the indentation of the first line stays.

    >>> code({"a": "\n  \n    return 1\n\n"}, "a")
    '    return 1'
    """
    return _EMPTY_LINES.sub("", field(row, key, str)).rstrip()


def hhh_alignment(row: Row) -> list[Row]:
    r"""HHH alignment (HuggingFaceH4/hhh_alignment): the prompt is a transcript that began with "\n\nHuman: ".

    The columns are prompt, chosen, rejected, or those of the hub: input and targets {choices, labels} with label 1 for
    the better of two answers. Most prompts are one turn; in the others the turns are told apart as in HH-RLHF.

    >>> row = {"prompt": "Hi\n\nAssistant: Yes?\n\nHuman: Why?", "chosen": "Because.", "rejected": "No."}
    >>> [message["content"] for message in hhh_alignment(row)[0]["chosen"]]
    ['Hi', 'Yes?', 'Why?', 'Because.']
    """
    if "targets" in row:
        targets = field(row, "targets", dict)
        choices, labels = field(targets, "choices", list, "targets."), field(targets, "labels", list, "targets.")
        if len(choices) != 2 or labels not in ([0, 1], [1, 0]):
            raise RowRefused("no_preference", f"labels are {str(labels)[:40]!a}, not 0 and 1 for two choices")
        answers = {"chosen": choices[labels.index(1)], "rejected": choices[labels.index(0)]}
        history = text(row, "input")
    else:
        answers, history = row, text(row, "prompt")
    transcripts = {side: f"\n\nHuman: {history}\n\nAssistant: {text(answers, side)}" for side in ("chosen", "rejected")}
    names = {"subset": source_id(row, "subset"), "source_id": source_id(row, "id")}
    return [hh_rlhf(transcripts)[0] | {key: name for key, name in names.items() if name is not None}]


def rewardbench(row: Row) -> list[Row]:
    """RewardBench v1 and tables of its shape (METHODS 10.1): a prompt of one user turn, and two answers.

    The indentation of the code subsets (hep-*) stays. Weights and sections of the subsets are no business of the
    conversion.
    """
    subset = source_id(row, "subset")
    read = code if subset and subset.startswith("hep-") else text
    prompt, chosen, rejected = text(row, "prompt"), read(row, "chosen"), read(row, "rejected")
    return [make_pair(ask(prompt), chosen, rejected, subset=subset, source_id=source_id(row, "id"))]


RM_BENCH_STYLES = ("concise", "detailed_plain", "detailed_markdown")


def rm_bench(row: Row) -> Converted:
    """RM-Bench (THU-KEG/RM-Bench): a right and a wrong answer in three styles each, in this order (data card).

    The benchmark compares all nine combinations: those where the wrong answer has the richer style are its hard ones,
    the other way round easy. Only the three of one style become pairs here, one each, because in the others style and
    correctness point in different directions or in the same one, and a model trained on them would learn style. The
    subset is "<domain>/<style>". Some rows have one text for two styles; the pipeline drops the duplicate.
    """
    prompt = ask(text(row, "prompt"))
    sides = {side: field(row, side, list) for side in ("chosen", "rejected")}
    for side, answers in sides.items():
        if len(answers) != len(RM_BENCH_STYLES):
            raise RowRefused("wrong_type", f"{side} has {len(answers)} answers, not one for each of the three styles")
    identifier = joined_ids(row, "domain", "id")  # the domain too, for ids repeat across domains
    converted: Converted = []
    for index, style in enumerate(RM_BENCH_STYLES):
        named = {f"{side}[{index}]": answers[index] for side, answers in sides.items()}
        try:
            chosen, rejected = (text(named, name) for name in named)
        except RowRefused as refused:
            converted.append(refused)
        else:
            subset = joined_ids({**row, "style": style}, "domain", "style")
            converted.append(make_pair(prompt, chosen, rejected, subset=subset, source_id=identifier))
    return converted


def humanevalpack(row: Row) -> list[Row]:
    """HumanEvalPack (bigcode/humanevalpack): the canonical solution over the one with a bug put in, six languages.

    The prompt is `instruction`, which says what to write in words; an answer is `declaration` and solution. The
    subset is the language, read off `task_id` ("Python/0"), for on the hub the language is the name of a configuration
    and not a column.

    >>> row = {"task_id": "Python/0", "instruction": "Write f.", "declaration": "def f():\\n"}
    >>> (pair,) = humanevalpack(row | {"canonical_solution": "    return 1\\n", "buggy_solution": "    return 2\\n"})
    >>> pair["chosen"][1]["content"], pair["subset"]
    ('def f():\\n    return 1', 'python')
    """
    declaration = field(row, "declaration", str)
    chosen, rejected = (
        code({"answer": declaration + field(row, key, str)}, "answer")
        for key in ("canonical_solution", "buggy_solution")
    )
    task = source_id(row, "task_id")
    language = (task or "").partition("/")[0].lower() or None
    return [make_pair(ask(text(row, "instruction")), chosen, rejected, subset=language, source_id=task)]


XSTEST_COMPLIANCE = {"1_full_compliance": 1.0, "2_full_refusal": 0.0, "3_partial_refusal": 0.5}


def xstest(row: Row) -> list[Answer]:
    """XSTest (paul-rottger/xstest): safe prompts should be answered, unsafe ones (`type` begins with contrast) refused.

    The score is 1 for full compliance with a safe prompt or full refusal of an unsafe one, and 0 the other way round.
    A partial refusal, which is any mixture of the two, lies between: 0.5; --min_gap 1 leaves these out. `final_label`
    is what was settled on after two people's annotations.
    """
    kind = text(row, "type")
    compliance = XSTEST_COMPLIANCE[one_of(row, "final_label", tuple(XSTEST_COMPLIANCE))]
    score = 1.0 - compliance if kind.startswith("contrast") else compliance
    prompt, completion = ask(text(row, "prompt")), text(row, "completion")
    return [Answer(prompt, completion, score, joined_ids(row, "id", "model", separator=":"), subset=kind)]


def _xstest_key(row: Row) -> str:
    return repr([text(row, "type"), text(row, "prompt")])


DO_NOT_ANSWER_MODELS = ("GPT4", "ChatGPT", "Claude", "ChatGLM2", "llama2-7b-chat", "vicuna-7b")


def do_not_answer(row: Row) -> list[Answer | RowRefused]:
    """Do-Not-Answer (LibrAI/do-not-answer): a question no model should simply answer, and six models' answers.

    People marked each answer harmful (1, score 0) or harmless (0, score 1). Most rows have six harmless answers and
    give only ties; `<model>_action` (how it avoided harm, 0..5) has no order and is not used.
    """
    prompt = ask(text(row, "question"))

    def answer(model: str) -> Answer:
        score = 1.0 - int(one_of(row, f"{model}_harmful", (0, 1, "0", "1")))
        name = joined_ids({**row, "model": model}, "id", "model", separator=":")
        return Answer(prompt, text(row, f"{model}_response"), score, name, subset=source_id(row, "risk_area"))

    return [_or_refused(answer, model) for model in DO_NOT_ANSWER_MODELS]


def gsm8k_candidates(row: Row) -> list[Answer | RowRefused]:
    """Solutions of GSM8K's test problems by several models, each marked right or wrong: right (1) over wrong (0).

    Each model writes in its own style and the models differ in how often they are right, so a reward model can score
    well by telling the writers apart; say which models were compared. `answer` and `reference_solution` are not used.
    """
    prompt = ask(text(row, "question"))

    def answer(candidate: Any) -> Answer:
        if not isinstance(candidate, dict):
            raise RowRefused("wrong_type", f"a candidate is {type(candidate).__name__}, not an object")
        score = float(one_of(candidate, "correct", (True, False)))
        name = joined_ids({**candidate, "idx": row.get("idx")}, "idx", "model", separator=":")
        return Answer(prompt, text(candidate, "response"), score, name)

    return [_or_refused(answer, candidate) for candidate in field(row, "candidates", list)]


def _or_refused(answer: Callable[[Any], Answer], item: Any) -> Answer | RowRefused:
    """answer(item), or why it cannot be used: the other answers of the row still can."""
    try:
        return answer(item)
    except RowRefused as refused:
        return refused


SOURCES = {
    "hhh_alignment": Source(
        "pairs",
        "HuggingFaceH4/hhh_alignment",
        "Apache-2.0",
        "id, subset, prompt, chosen, rejected; or input, targets {choices, labels}",
        f"prompt split into turns as in hh_rlhf; {EVALUATION}",
        hhh_alignment,
    ),
    "rewardbench": Source(
        "pairs",
        "allenai/reward-bench, and tables of its shape",
        "see the data card; that of each row's own source",
        "id, subset, prompt, chosen, rejected",
        f"as it is, indentation of hep-* kept; {EVALUATION}",
        rewardbench,
    ),
    "rm_bench": Source(
        "pairs",
        "THU-KEG/RM-Bench",
        "ODC-BY",
        "id, domain, prompt, chosen [3], rejected [3]",
        f"right over wrong within each of three styles, three pairs, subset <domain>/<style>; {EVALUATION}",
        rm_bench,
    ),
    "humanevalpack": Source(
        "pairs",
        "bigcode/humanevalpack",
        "MIT",
        "task_id, instruction, declaration, canonical_solution, buggy_solution",
        f"declaration and canonical over declaration and buggy solution; {EVALUATION}",
        humanevalpack,
    ),
    "xstest": Source(
        "answers",
        "paul-rottger/xstest on GitHub, model completions",
        "CC BY 4.0",
        "id, model, type, prompt, completion, final_label",
        f"safe prompt: compliance 1, partial refusal 0.5, refusal 0; unsafe (contrast_*): reversed; {EVALUATION}",
        xstest,
        group_key=_xstest_key,
    ),
    "do_not_answer": Source(
        "answers",
        "LibrAI/do-not-answer",
        "Apache-2.0",
        "id, risk_area, question, <model>_response and <model>_harmful of six models",
        f"harmless (1) over harmful (0) answers; {EVALUATION}",
        do_not_answer,
    ),
    "gsm8k_candidates": Source(
        "answers",
        "several models' solutions of openai/gsm8k test problems",
        "MIT, Apache-2.0 or none stated, by the candidate's own source",
        "idx, question, candidates [{model, response, correct}]",
        f"right (1) over wrong (0) solutions; {EVALUATION}",
        gsm8k_candidates,
    ),
}
