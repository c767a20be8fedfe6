"""Pairs that people compared, or that a benchmark ships as compared (what GPT-4 compared: gpt_judged.py)."""

from collections import Counter
from itertools import combinations
from typing import Any

from useful_code.chat_pairs import Message
from useful_code.reasons import RowRefused
from useful_code.sources.fields import Converted, Row, ask, chat, field, make_pair, number, one_of, source_id, text
from useful_code.sources.source import Source

TIE = 0  # as a winner: neither of the two answers
EVALUATION = "for evaluation: decontaminate before training on it"  # ends the rule of every set made for evaluation


def compared(prompt: list[Message], first: str, second: str, winner: int, **columns: Any) -> Row:
    """The pair of two answers of which number `winner` (1 or 2) is the better one, or a tie (`TIE`)."""
    chosen, rejected = (second, first) if winner == 2 else (first, second)
    return make_pair(prompt, chosen, rejected, tie=True if winner == TIE else None, **columns)


def joined_ids(row: Row, *keys: str, separator: str = "/") -> str | None:
    """Those of the row's columns that are usable identifiers, joined, or None.

    >>> joined_ids({"id": 7, "model": None, "turn": "2"}, "id", "model", "turn")
    '7/2'
    """
    return separator.join(name for key in keys if (name := source_id(row, key))) or None


def rmb(row: Row) -> list[Row]:
    """RMB pairwise (Zhou-Zoey/RMB-Reward-Model-Benchmark): a conversation and two answers of named models.

    White space at the ends of a message is removed: in these data it names the writer (nearly every Llama-2 answer
    begins with a space), so a model could learn it instead of quality. Three prompts hold "ASSISTANT:" inside one
    user message; it stays there, for the models were given that text as one message (vicuna's answers repeat it).
    """
    prompt = chat(row, "conversation_input")
    chosen, rejected = (text(field(row, side, dict), "answer", f"{side}.") for side in ("chosen", "reject"))
    subset, identifier = source_id(row, "category_path"), source_id(row, "pair_uid")
    return [make_pair(prompt, chosen, rejected, subset=subset, source_id=identifier)]


def rmb_best_of_n(row: Row) -> Converted:
    """RMB best-of-N (same repository): the best answer against each of two to six worse ones, one pair each.

    A model passes the benchmark's test on a row only if it ranks the best answer above all of them. How the worse
    ones compare with each other is not said, so no pair is made of them.
    """
    prompt = chat(row, "conversation_input")
    best = text(field(row, "bon_best", dict), "answer", "bon_best.")
    subset, uid = source_id(row, "category_path"), source_id(row, "bon_uid")
    converted: Converted = []
    for index, loser in enumerate(field(row, "loser_list", list)):
        place = f"loser_list[{index}]"
        try:
            worse = text(field({place: loser}, place, dict), "answer", f"{place}.")
        except RowRefused as refused:
            converted.append(refused)
        else:
            converted.append(make_pair(prompt, best, worse, subset=subset, source_id=uid and f"{uid}/{index}"))
    if not converted:
        raise RowRefused("single_answer", "loser_list is empty")
    return converted


def pandalm(row: Row) -> list[Row]:
    """PandaLM test set v1 (WeOpenML/PandaLM): two 7B models' answers, three people's votes (0: alike, 1 or 2: better).

    What two of the three say counts, as in the repository's own compute_metrics.py; three different votes are a tie.
    The label is the winner's share of the votes, a vote for "alike" being half a vote for each side: votes 1, 1, 2
    give 2/3 and votes 1, 1, 0 give 5/6. The prompt is the instruction, a blank line, and the input if there is one
    (the original file has NaN where there is none); one row has an input only. The original file holds JSON booleans
    as answers, which are written out.

    >>> row = {"instruction": "Shorten.", "input": "So be it.", "response1": "So be it", "response2": "Be it"}
    >>> (pair,) = pandalm(row | {"annotator1": 2, "annotator2": 1, "annotator3": 2})
    >>> pair["chosen"][0]["content"], pair["chosen"][1]["content"], round(pair["label"], 3)
    ('Shorten.\\n\\nSo be it.', 'Be it', 0.667)
    """
    votes = [one_of(row, f"annotator{person}", (0, 1, 2)) for person in (1, 2, 3)]
    winner, agreed = Counter(votes).most_common(1)[0]
    if agreed == 1:
        winner = TIE
    label = None if winner == TIE else (votes.count(winner) + votes.count(TIE) / 2) / 3
    no_input = row.get("input") is None or row["input"] != row["input"]  # NaN is the only value unlike itself
    parts = [text(row, "instruction"), "" if no_input else text(row, "input")]
    prompt = ask("\n\n".join(part for part in parts if part))
    first, second = (
        str(row[key]) if isinstance(row.get(key), bool) else text(row, key) for key in ("response1", "response2")
    )
    subset, identifier = source_id(row, "motivation_app"), source_id(row, "idx")
    return [compared(prompt, first, second, winner, label=label, subset=subset, source_id=identifier)]


def auto_j(row: Row) -> list[Row]:
    """Auto-J's pairwise test data (GAIR-NLP/auto-j): 58 scenarios; label 0: response 1, 1: response 2, 2: a tie.

    >>> row = {"scenario": "ranking", "prompt": "Q", "response 1": "A", "response 2": "B", "label": 1}
    >>> auto_j(row)[0]["chosen"][1]["content"]
    'B'
    """
    winner = {0: 1, 1: 2, 2: TIE}[one_of(row, "label", (0, 1, 2))]
    prompt, first, second = (text(row, key) for key in ("prompt", "response 1", "response 2"))
    return [compared(ask(prompt), first, second, winner, subset=source_id(row, "scenario"))]


def qa_feedback(row: Row) -> Converted:
    """QA-Feedback (allenai/FineGrainedRLHF): four sampled answers and six human comparisons, six pairs.

    `preference` is in the order 1v2, 1v3, 1v4, 2v3, 2v4, 3v4; 1: the first is better, 2: the second, 0: no preference
    (the data's README). People compared each two answers by themselves, so the six need not form a ranking and are
    kept as they are. The answers are meant to rest on the passages, so these stand in the prompt, each under its title
    (half of them repeat it in their first sentence); how to word the prompt is our choice, the question comes last.
    """
    parts = [part for part in map(_passage, field(row, "passages", list)) if part]
    parts.append(("Question: " if parts else "") + text(row, "question"))
    prompt = ask("\n\n".join(parts))
    preferences = field(row, "preference", list)
    if len(preferences) != 6:
        raise RowRefused("no_preference", f"preference has {len(preferences)} values, not 6")
    converted: Converted = []
    for (i, j), value in zip(combinations((1, 2, 3, 4), 2), preferences, strict=True):
        try:
            winner = one_of({f"preference {i}v{j}": value}, f"preference {i}v{j}", (1, 2, 0))
            first, second = text(row, f"prediction {i}"), text(row, f"prediction {j}")
        except RowRefused as refused:
            converted.append(refused)
        else:
            converted.append(compared(prompt, first, second, winner))
    return converted


def _passage(passage: Any) -> str:
    """A title and sentences -> the title, and the sentences below it."""
    if not isinstance(passage, list) or not all(isinstance(sentence, str) for sentence in passage):
        raise RowRefused("wrong_type", "a passage is no list of texts")
    title, *sentences = [sentence.strip() for sentence in passage] or [""]
    body = " ".join(sentences)
    return body if body.startswith(title) else f"{title}\n{body}".strip()


# Value of `preference` -> winner and margin: 2 for better, 1 for slightly better.
_TULU_VERDICTS = {
    "a-is-better": (1, 2.0),
    "a-is-slightly-better": (1, 1.0),
    "tie": (TIE, None),
    "b-is-slightly-better": (2, 1.0),
    "b-is-better": (2, 2.0),
}


def tulu1_human_eval(row: Row) -> list[Row]:
    """Human evaluation of Tulu 1 (allenai/open-instruct): a five-way preference becomes a winner and a margin.

    Whether an answer is acceptable by itself is not used: it agrees with the preference but for two of 850 rows.
    Several people judged the same two answers; where they disagree the rows contradict each other, and the pipeline
    drops them.
    """
    winner, margin = _TULU_VERDICTS[one_of(row, "preference", tuple(_TULU_VERDICTS))]
    prompt, first, second = (text(row, key) for key in ("prompt", "completion_a", "completion_b"))
    instruction_set = (source_id(row, "instance_id") or "").rpartition("_")[0] or None  # vicuna_12 -> vicuna
    identifier = joined_ids(row, "instance_id", "annotator")
    return [compared(ask(prompt), first, second, winner, margin=margin, subset=instruction_set, source_id=identifier)]


def llmbar(row: Row) -> list[Row]:
    """LLMBar (princeton-nlp/LLMBar): which of two outputs follows the instruction, label 1 or 2, never a tie.

    Besides LLMBar's own natural and adversarial subsets the repository ships FairEval, LLMEval^2 and MT-Bench pairs
    without their ties (`Processed/...`). Seven LLMEval^2 inputs ask to continue a dialogue that they quote; it stays
    in the one user message, for it is what was asked. Five of RewardBench's Chat Hard subsets come from here.
    """
    winner = one_of(row, "label", (1, 2))
    prompt, first, second = (text(row, key) for key in ("input", "output_1", "output_2"))
    subset, identifier = source_id(row, "subset"), joined_ids(row, "subset", "idx")
    return [compared(ask(prompt), first, second, winner, subset=subset, source_id=identifier)]


def shepherd(row: Row) -> list[Row]:
    """Shepherd's human data (facebookresearch/Shepherd): the right answer over a model's answer that people criticised.

    Only the model's answer was rated (justification and relevance, 1..5). An answer rated 5 on both is left out: it may
    be no worse than the given right answer. The scores are not copied, for the right answer has none. Many right
    answers are only a line; the pair says which is right, not which is better written.
    """
    scores = field(row, "scores", dict)
    if min(number(scores, name, "scores.") for name in ("justification", "relevance")) >= 5:
        raise RowRefused("left_out_by_rule", "the model's answer has the best rating on both scales")
    prompt, right, criticised = (text(row, key) for key in ("question", "correct_answer", "answer"))
    subset, identifier = source_id(row, "dataset"), source_id(row, "id")
    return [make_pair(ask(prompt), right, criticised, subset=subset, source_id=identifier)]


SOURCES = {
    "rmb": Source(
        "pairs",
        "Zhou-Zoey/RMB-Reward-Model-Benchmark on GitHub, pairwise set",
        "none stated in the repository",
        "pair_uid, conversation_input [{role, content}], chosen {answer}, reject {answer}, category_path",
        "conversation_input plus either answer; white space at the ends of a message removed; all languages kept; "
        + EVALUATION,
        rmb,
    ),
    "rmb_best_of_n": Source(
        "pairs",
        "Zhou-Zoey/RMB-Reward-Model-Benchmark on GitHub, best-of-N set",
        "none stated in the repository",
        "bon_uid, conversation_input [{role, content}], bon_best {answer}, loser_list [{answer}], category_path",
        f"the best answer against every loser, one pair each; {EVALUATION}",
        rmb_best_of_n,
    ),
    "pandalm": Source(
        "pairs",
        "WeOpenML/PandaLM on GitHub, data/testset-v1.json",
        "Apache-2.0",
        "idx, motivation_app, instruction, input, response1, response2, annotator1..3",
        "majority of three votes; label = share of the winner, a vote for alike counts half; no majority is a tie; "
        + EVALUATION,
        pandalm,
    ),
    "auto_j": Source(
        "pairs",
        "GAIR-NLP/auto-j on GitHub, testdata_pairwise.jsonl",
        "none stated there; Apache-2.0 where prometheus-eval/prometheus-eval ships it",
        "scenario, prompt, response 1, response 2, label",
        f"label 0: response 1 is chosen, 1: response 2, 2: a tie; {EVALUATION}",
        auto_j,
    ),
    "qa_feedback": Source(
        "pairs",
        "allenai/FineGrainedRLHF on GitHub, tasks/qa_feedback/data",
        "Apache-2.0",
        "question, passages [[title, sentence...]], prediction 1..4, preference [6]",
        "prompt = passages and question; six pairs in the order 1v2 1v3 1v4 2v3 2v4 3v4; preference 0 is a tie",
        qa_feedback,
    ),
    "tulu1_human_eval": Source(
        "pairs",
        "allenai/open-instruct on GitHub, human evaluation of Tulu 1",
        "Apache-2.0",
        "instance_id, prompt, completion_a, completion_b, preference, annotator",
        f"margin 2 for better, 1 for slightly better; tie is a tie; {EVALUATION}",
        tulu1_human_eval,
    ),
    "llmbar": Source(
        "pairs",
        "princeton-nlp/LLMBar",
        "MIT",
        "subset, idx, input, output_1, output_2, label",
        f"label 1 or 2 names the output that is chosen; {EVALUATION}",
        llmbar,
    ),
    "shepherd": Source(
        "pairs",
        "facebookresearch/Shepherd on GitHub, human data",
        "CC BY-NC 4.0",
        "id, dataset, question, answer, correct_answer, scores {justification, relevance}",
        "correct_answer over answer, unless both scores of answer are 5",
        shepherd,
    ),
}
