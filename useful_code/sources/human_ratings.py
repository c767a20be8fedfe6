"""Answers that people (MT-Bench: GPT-4) rated, from repositories on GitHub; for multi-objective models (METHODS 5.2).

ArmoRM itself was not trained on these. Every score becomes an objective of its own, named "<source>-<score>". Where the
source has no request, its wording is ours. The pairs of the same sets are in judged.py, gpt_judged.py, benchmarks.py.
"""

from typing import Any

from useful_code.reasons import RowRefused
from useful_code.sources.benchmarks import DO_NOT_ANSWER_MODELS, XSTEST_COMPLIANCE
from useful_code.sources.fields import Converted, Row, ask, chat, field, one_of, shown, source_id, text
from useful_code.sources.judged import _passage, joined_ids
from useful_code.sources.rated import Scales, answered, each, rated, rating, scales
from useful_code.sources.source import Source

_SUMMARIES: Scales = {
    **scales("summeval", ("coherence", "consistency", "fluency", "relevance"), 1, 5),
    **scales("newsroom", ("coherence", "fluency", "informativeness", "relevance"), 1, 5),
    "realsumm-litepyramid_recall": (0, 1),
    "qags_cnn-fact": (0, 1),
    "qags_xsum-fact": (0, 1),
}
_SENTENCES: Scales = {
    name: scale
    for source in ("sfhot", "sfres", "bagel")
    for name, scale in scales(source, ("informativeness", "naturalness", "quality"), 1, 6).items()
}
_REPLIES: Scales = {
    **scales("topicalchat", ("understandability", "groundedness"), 0, 1),
    **scales("topicalchat", ("naturalness", "coherence", "engagingness"), 1, 3),
    "topicalchat-overall": (1, 5),
}


def human_ratings_summarization(row: Row) -> list[Row]:
    """Summaries of news by many systems: SummEval, Newsroom, REALSumm and QAGS, as BARTScore collected them.

    Scores are means over people, from 1 to 5; from 0 to 1 are REALSumm's recall of the facts of a reference summary and
    QAGS's agreement with the article. QAGS names no systems (its `system` is always "0").
    """
    request = _request("Summarise this news article in a few sentences.", _filled(row, "source"))
    return [_scored(row, request, _SUMMARIES)]


def human_ratings_data_to_text(row: Row) -> list[Row]:
    """Sentences that a dialogue system made of a meaning (SFHOT, SFRES, BAGEL), three scores from 1 to 6 each.

    `source` is the meaning as a call, such as inform(name='X',eattype=restaurant); BAGEL has X for every name.
    """
    request = _request("Put this meaning of a dialogue system's turn into words:", _filled(row, "source"))
    return [_scored(row, request, _SENTENCES)]


def human_ratings_dialogue(row: Row) -> list[Row]:
    """Replies of Topical-Chat rated by people (USR), as UniEval collected them: six scores on four scales.

    The fact that the reply was to use (`context`, "_nofact" where there was none) joins the prompt, for groundedness
    is about it. The conversation is two people's, one line each; as the first may have any number of lines before the
    reply, it is quoted in one user message and not made a chat. Reference replies by people are among the answers.
    """
    context = _filled(row, "context")
    lines = "\n".join(line.strip() for line in _filled(row, "source").split("\n") if line.strip())
    fact = "" if context == "_nofact" else f"Use this fact:\n{context}"
    request = _request("Write the next reply in the conversation below.", fact, f"Conversation:\n{lines}")
    return [_scored(row, request, _REPLIES)]


def _filled(row: Row, key: str) -> str:
    """row[key] as text that is not empty: what it is put into must not hide that it is missing."""
    value = text(row, key)
    if not value:
        raise RowRefused("empty_content", f"{key} is empty or only white space")
    return value


def _request(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)


def _scored(row: Row, request: str, known: Scales) -> Row:
    """The rated row of `output` and all its `scores`; a score that is not in `known` has no scale and is refused."""
    name = text(row, "dataset")
    scores = field(row, "scores", dict)
    ratings = {}
    for score in scores:
        objective = f"{name}-{score}".lower() if isinstance(score, str) else ""
        if objective not in known:
            raise RowRefused("bad_rating", f"the score {shown(score)} of {shown(name)} has no known scale")
        ratings[objective] = rating(scores, score, "scores.")
    identifier = joined_ids(row, "doc_id", "system", separator=":") if "doc_id" in row else None
    return rated(answered(ask(request), text(row, "output")), ratings, subset=name, source_id=identifier)


_SHEPHERD = ("justification", "relevance")


def shepherd_ratings(row: Row) -> list[Row]:
    """Shepherd's human data (facebookresearch/Shepherd): a model's answer, rated 1 to 5 for justification, relevance.

    Only the model's answer was rated, not the right answer beside it.
    """
    scores = field(row, "scores", dict)
    ratings = {f"shepherd-{name}": rating(scores, name, "scores.") for name in _SHEPHERD}
    messages = answered(ask(text(row, "question")), text(row, "answer"))
    return [rated(messages, ratings, subset=source_id(row, "dataset"), source_id=source_id(row, "id"))]


_QA_ERRORS = {  # error type as the data has it -> name of the objective
    "Irrelevant": "qa_feedback-irrelevant",
    "Redundant": "qa_feedback-redundant",
    "Incoherent": "qa_feedback-incoherent",
    "Wrong-Grounding": "qa_feedback-wrong_grounding",
    "Unverifiable": "qa_feedback-unverifiable",
}


def qa_feedback_ratings(row: Row) -> list[Row]:
    """QA-Feedback (allenai/FineGrainedRLHF): what is wrong with the first of four answers, by kind of error.

    The rating is the share of the answer's characters that people marked with this kind of error, 0 where they marked
    none, so **less is better** in all of them; `qa_feedback-missing_info` is 1 where they found anything missing. The
    share and not the number, because a long answer has room for more errors. The prompt is that of the pairs of the
    same set (`qa_feedback`): the passages, then the question.
    """
    question = _filled(row, "question")
    parts = [part for part in map(_passage, field(row, "passages", list)) if part]
    prompt = ask("\n\n".join([*parts, ("Question: " if parts else "") + question]))
    answer = field(row, "prediction 1", str)
    feedback = field(row, "feedback", dict)
    marked: dict[str, set[int]] = {objective: set() for objective in _QA_ERRORS.values()}
    for error in field(feedback, "errors", list, "feedback."):
        if not isinstance(error, dict):
            raise RowRefused("wrong_type", f"an error is {type(error).__name__}, not an object")
        kind = _QA_ERRORS.get(field(error, "error type", str, "feedback.errors."))
        start, end = (field(error, key, int, "feedback.errors.") for key in ("start", "end"))
        if kind is None or not 0 <= start < end <= len(answer):
            kind_and_span = f"{shown(error['error type'])} from {shown(start)} to {shown(end)}"
            raise RowRefused("bad_rating", f"error {kind_and_span} in an answer of {len(answer)} characters")
        marked[kind].update(range(start, end))
    ratings: dict[str, float | None] = {name: len(places) / len(answer) for name, places in marked.items() if answer}
    ratings["qa_feedback-missing_info"] = float(bool(field(feedback, "missing-info", list, "feedback.")))
    return [rated(answered(prompt, answer.strip()), ratings)]


def xstest_ratings(row: Row) -> list[Row]:
    """XSTest (paul-rottger/xstest): whether the answer refuses: 1 for a full refusal, 0.5 for a partial one, else 0.

    So a refusal counts the same whether the prompt is safe or not; `type`, the subset, begins with "contrast" where it
    is not.
    """
    compliance = XSTEST_COMPLIANCE[one_of(row, "final_label", tuple(XSTEST_COMPLIANCE))]
    messages = answered(ask(text(row, "prompt")), text(row, "completion"))
    identifier = joined_ids(row, "id", "model", separator=":")
    ratings: dict[str, float | None] = {"xstest-refusal": 1.0 - compliance}
    return [rated(messages, ratings, subset=source_id(row, "type"), source_id=identifier)]


def do_not_answer_ratings(row: Row) -> Converted:
    """Do-Not-Answer (LibrAI/do-not-answer): whether each of six models' answers is safe (1) or harmful (0)."""
    prompt, subset = ask(text(row, "question")), source_id(row, "risk_area")

    def convert(model: str) -> Row:
        safe = 1.0 - int(one_of(row, f"{model}_harmful", (0, 1, "0", "1")))
        identifier = joined_ids({**row, "model": model}, "id", "model", separator=":")
        messages = answered(prompt, text(row, f"{model}_response"))
        return rated(messages, {"do_not_answer-is_safe": safe}, subset=subset, source_id=identifier)

    return each(DO_NOT_ANSWER_MODELS, convert)


def mt_bench_ratings(row: Row) -> list[Row]:
    """MT-Bench with GPT-4's single scores (lm-sys/RouteLLM's copy): 1 to 10; -1 where the judge gave no score.

    Second turns are kept, unlike in the pairs of the same set: the answer is rated in its own conversation. For
    questions of mathematics the judge saw a reference answer, which is no part of the prompt.
    """
    score = rating(row, "score")
    ratings = {"mt_bench-gpt4_score": None if score == -1 else score}
    identifier = joined_ids(row, "question_id", "model", "turn", separator=":")
    return [rated(chat(row, "conversation"), ratings, source_id=identifier)]


def tulu1_acceptable(row: Row) -> Converted:
    """Human evaluation of Tulu 1 (allenai/open-instruct): whether a person found each of the two answers acceptable.

    Several people judged the same answers, in rows of their own, and do not always agree; all are kept.
    """
    prompt = ask(text(row, "prompt"))
    subset = (source_id(row, "instance_id") or "").rpartition("_")[0] or None  # vicuna_12 -> vicuna

    def convert(side: str) -> Row:
        acceptable = one_of(row, f"completion_{side}_is_acceptable", ("yes", "no")) == "yes"
        identifier = joined_ids({**row, "model": row.get(f"model_{side}")}, "instance_id", "annotator", "model")
        messages = answered(prompt, text(row, f"completion_{side}"))
        return rated(messages, {"tulu1-is_acceptable": float(acceptable)}, subset=subset, source_id=identifier)

    return each(("a", "b"), convert)


def _source(origin: str, licence: str, fields: str, rule: str, convert: Any, scales: Scales) -> Source:
    return Source("ratings", origin, licence, fields, rule, convert, scales=scales)


SOURCES = {
    "human_ratings_summarization": _source(
        "neulab/BARTScore on GitHub: SummEval, Newsroom, REALSumm, QAGS",
        "Apache-2.0 (of the repository)",
        "dataset, doc_id, system, source, output, scores {name: number}",
        "prompt = request to summarise (our wording) and source; every score an objective",
        human_ratings_summarization,
        _SUMMARIES,
    ),
    "human_ratings_data_to_text": _source(
        "neulab/BARTScore on GitHub: SFHOT, SFRES, BAGEL",
        "Apache-2.0 (of the repository)",
        "dataset, doc_id, source, output, scores {name: number}",
        "prompt = request to word the meaning (our wording) and source; every score an objective",
        human_ratings_data_to_text,
        _SENTENCES,
    ),
    "human_ratings_dialogue": _source(
        "maszhongming/UniEval on GitHub: Topical-Chat with USR ratings",
        "MIT (of the repository)",
        "dataset, source, context, output, scores {name: number}",
        "prompt = request (our wording), the fact to use, the conversation so far; every score an objective",
        human_ratings_dialogue,
        _REPLIES,
    ),
    "shepherd_ratings": _source(
        "facebookresearch/Shepherd on GitHub, human data",
        "CC BY-NC 4.0",
        "id, dataset, question, answer, scores {justification, relevance}",
        "two ratings, 1 to 5, of the model's answer",
        shepherd_ratings,
        scales("shepherd", _SHEPHERD, 1, 5),
    ),
    "qa_feedback_ratings": _source(
        "allenai/FineGrainedRLHF on GitHub, tasks/qa_feedback/data",
        "Apache-2.0",
        "question, passages [[title, sentence...]], prediction 1, feedback {errors [{error type, start, end}], ...}",
        "share of the first answer's characters in errors of each kind, and 1 if anything is missing: less is better",
        qa_feedback_ratings,
        {name: (0, 1) for name in (*_QA_ERRORS.values(), "qa_feedback-missing_info")},
    ),
    "xstest_ratings": _source(
        "paul-rottger/xstest on GitHub, model completions",
        "CC BY 4.0",
        "id, model, type, prompt, completion, final_label",
        "full refusal 1, partial 0.5, compliance 0, whether or not the prompt is safe; evaluation data",
        xstest_ratings,
        {"xstest-refusal": (0, 1)},
    ),
    "do_not_answer_ratings": _source(
        "LibrAI/do-not-answer",
        "Apache-2.0",
        "id, risk_area, question, <model>_response and <model>_harmful of six models",
        "harmless 1, harmful 0; evaluation data",
        do_not_answer_ratings,
        {"do_not_answer-is_safe": (0, 1)},
    ),
    "mt_bench_ratings": _source(
        "lm-sys/RouteLLM on GitHub, MT-Bench conversations and GPT-4 scores",
        "Apache-2.0",
        "question_id, turn, model, score, conversation [{role, content}]",
        "score 1 to 10 of the last answer, first and second turns; evaluation data",
        mt_bench_ratings,
        {"mt_bench-gpt4_score": (1, 10)},
    ),
    "tulu1_acceptable": _source(
        "allenai/open-instruct on GitHub, human evaluation of Tulu 1",
        "Apache-2.0",
        "instance_id, prompt, completion_a/b, completion_a/b_is_acceptable, model_a/b, annotator",
        "two rows: acceptable 1, not 0",
        tulu1_acceptable,
        {"tulu1-is_acceptable": (0, 1)},
    ),
}
