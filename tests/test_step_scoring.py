"""One pass over a problem's solutions equals plain Transformers, step by step and solution by solution."""

import argparse
import dataclasses
import json
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    GPT2Config,
    GPT2ForTokenClassification,
)

from useful_code.reasons import RowRefused
from useful_code.render import render
from useful_code.resumable_scoring import remove_parts
from useful_code.scoring import add_model_arguments
from useful_code.step_prompt import StepIds
from useful_code.step_scoring import add_solution_arguments, load_solution_scorer, score_now, score_solutions
from useful_code.tiny import STYLES, byte_tokenizer, save_tiny_judge, save_tiny_model, tiny_config
from useful_code.user_errors import UserError

TOLERANCE = 1e-5  # float32, probabilities
WIDE = {"initializer_range": 0.3}  # else a random model says 0.5 to everything, and any mix-up would pass
PROBLEMS = {
    "1 + 1 - 1?": [["1 + 1 is 2.", "2 - 1 is 1.", "So 1."], ["1 + 1 is 3 + 0.", "So 2."], ["Zero."]],
    "3?": [["3, of course:\n3 is 3.", "So +3."], ["3, of course:", "3 is 3.", "So +3."]],
}


def save_tagger(directory: Path, architecture: str = "llama", style: str = "chatml", **config) -> None:
    tokenizer = byte_tokenizer(style)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = AutoModelForTokenClassification.from_config(
            tiny_config(architecture, len(tokenizer), num_labels=2, **WIDE), dtype=torch.float32
        )
    for name, value in config.items():
        setattr(model.config, name, value)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def set_config(directory: Path, **values) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for style in STYLES:
        save_tiny_judge(folder / f"verdicts-{style}", "llama", style, **WIDE)
        save_tagger(folder / f"tags-{style}", "llama", style)
    save_tiny_judge(folder / "verdicts-gemma2", "gemma2", "gemma", **WIDE)
    save_tagger(folder / "tags-gemma2", "gemma2", "gemma")
    save_tiny_judge(folder / "outcome", "llama", "llama3", **WIDE)
    set_config(folder / "outcome", reward_of="outcome")
    save_tiny_model(folder / "scalar", "llama", "llama3", **WIDE)
    return folder


def scorer_of(path: Path, *flags: str):
    parser = argparse.ArgumentParser()
    add_model_arguments(parser)
    add_solution_arguments(parser)
    arguments = parser.parse_args(["--reward_name_or_path", str(path), *flags])
    return load_solution_scorer(arguments, PartialState(cpu=True))


def read_all(scorer) -> list[list[StepIds]]:
    return [[scorer.read(prompt, steps) for steps in solutions] for prompt, solutions in PROBLEMS.items()]


def flat(scores) -> list[float]:
    return [score for problem in scores for solution in problem for score in solution]


@torch.inference_mode()
def step_by_step(path: Path, prompt: str, steps: list[str]) -> list[float]:
    """The model as Transformers has it, asked once for every step, at the last token of all that it was given; the
    chat is rendered up to where the model would answer."""
    scores = []
    if path.name.startswith("tags"):
        model, tokenizer = AutoModelForTokenClassification.from_pretrained(path).eval(), byte_tokenizer(path.name[5:])
        for t in range(len(steps)):
            text = (tokenizer.bos_token or "") + prompt + "".join(f"{step}\n" for step in steps[: t + 1])
            ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
            scores.append(model(ids).logits[0, -1].softmax(-1)[1].item())
        return scores
    model, scorer = AutoModelForCausalLM.from_pretrained(path).eval(), scorer_of(path)
    signs = byte_tokenizer()("-+", add_special_tokens=False).input_ids
    for t in range(len(steps)):
        turns = [{"role": "user", "content": f"{prompt} {steps[0]}"}]
        for step in steps[1 : t + 1]:
            turns += [{"role": "assistant", "content": "+"}, {"role": "user", "content": step}]
        ids = render(scorer.template, turns, add_generation_prompt=True)
        scores.append(model(torch.tensor([ids])).logits[0, -1, signs].softmax(-1)[1].item())
    return scores


@pytest.mark.parametrize("form", ["verdicts", "tags"])
@pytest.mark.parametrize("style", STYLES)
def test_one_pass_equals_plain_transformers_step_by_step(models, style, form):
    """METHODS 7.9, check 2: all solutions of both problems in one packed row against a forward pass for every step."""
    path = models / f"{form}-{style}"
    scorer = scorer_of(path)
    assert scorer.model.shares_prefix
    for (prompt, solutions), read in zip(PROBLEMS.items(), read_all(scorer), strict=True):
        found = score_now(scorer, read)
        expected = [step_by_step(path, prompt, steps) for steps in solutions]
        assert [len(scores) for scores in found] == [len(steps) for steps in solutions]
        assert flat([found]) == pytest.approx(flat([expected]), abs=TOLERANCE)
        assert max(flat([found])) - min(flat([found])) > 0.02, "a model that tells steps apart"


@pytest.mark.parametrize("place", [-1, 1])
def test_the_comparison_notices_a_place_beside(models, place):
    """Mutation: all places one token earlier or later give other scores, far above the tolerance."""
    scorer = scorer_of(models / "verdicts-chatml")
    prompt, solutions = next(iter(PROBLEMS.items()))
    ids, places = scorer.read(prompt, solutions[0])
    beside = tuple(min(each + place, len(ids) - 1) for each in places)
    right, wrong = (score_now(scorer, [StepIds(ids, chosen)])[0] for chosen in (places, beside))
    assert abs(right[0] - wrong[0]) > 100 * TOLERANCE


@pytest.mark.parametrize(
    "name", ["verdicts-llama3", "tags-gemma", "verdicts-gemma2", "tags-gemma2", "scalar", "outcome"]
)
def test_company_order_and_batch_size_do_not_matter(models, tmp_path, name):
    """Each solution alone, all together, in another order, in batches of few tokens; gemma2 cannot share prefixes and
    runs padded batches instead."""
    scorer = scorer_of(models / name)
    assert scorer.model.shares_prefix == (not name.endswith("gemma2"))
    problems = read_all(scorer)
    alone = [[score_now(scorer, [solution])[0] for solution in problem] for problem in problems]
    assert flat(score_solutions(scorer, problems, tmp_path / "together")) == pytest.approx(flat(alone), abs=TOLERANCE)
    turned = score_solutions(scorer, [problem[::-1] for problem in problems[::-1]], tmp_path / "turned")
    assert flat([problem[::-1] for problem in turned[::-1]]) == pytest.approx(flat(alone), abs=TOLERANCE)
    few = scorer_of(models / name, "--max_tokens_per_batch", "60")
    assert flat(score_solutions(few, read_all(few), tmp_path / "few")) == pytest.approx(flat(alone), abs=TOLERANCE)


def test_equal_texts_cut_in_two_ways_keep_their_own_steps(models, tmp_path):
    """As tags, "a\\nb" and "a", "b" are the same tokens: the first has one step more, and the shared ones are equal."""
    scorer = scorer_of(models / "tags-chatml")
    two, three = read_all(scorer)[1]
    assert two.ids == three.ids and len(two.places) == 2 and len(three.places) == 3
    for scores in (
        score_now(scorer, [two, three]),
        score_solutions(scorer, [[two, three]], tmp_path / "one problem")[0],
        [problem[0] for problem in score_solutions(scorer, [[two], [three]], tmp_path / "two problems")],
    ):
        assert len(scores[0]) == 2 and len(scores[1]) == 3 and scores[1][1:] == scores[0]
    fresh = scorer_of(models / "tags-chatml")
    assert score_now(fresh, [three])[0] == pytest.approx(scores[1], abs=TOLERANCE)


def test_problems_without_solutions_keep_their_place(models, tmp_path):
    scorer = scorer_of(models / "tags-chatml")
    first, second = read_all(scorer)
    found = score_solutions(scorer, [[], first, [], second], tmp_path / "scores")
    assert [len(problem) for problem in found] == [0, 3, 0, 2] and score_now(scorer, []) == []


# --- outcome models ---


@torch.inference_mode()
def test_a_scalar_outcome_model_gives_the_sigmoid_of_its_logit(models):
    """One score for the chat of problem and solution."""
    scorer = scorer_of(models / "scalar")
    assert scorer.reward_of == "outcome" and scorer.form is None
    plain, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(models / "scalar").eval(),
        byte_tokenizer("llama3"),
    )
    for prompt, solutions in PROBLEMS.items():
        found = score_now(scorer, [scorer.read(prompt, steps) for steps in solutions])
        for scores, steps in zip(found, solutions, strict=True):
            chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": "\n".join(steps)}]
            ids = tokenizer.apply_chat_template(chat, return_dict=False)
            assert scores == pytest.approx([plain(torch.tensor([ids])).logits.sigmoid().item()], abs=TOLERANCE)


def test_an_outcome_model_with_verdicts_judges_the_whole_solution(models):
    """`reward_of` in its config, which a flag overrules: one score, that of the solution as a single step."""
    scorer = scorer_of(models / "outcome")
    prompt, solutions = next(iter(PROBLEMS.items()))
    assert scorer.reward_of == "outcome"
    found = score_now(scorer, [scorer.read(prompt, steps) for steps in solutions])
    expected = [step_by_step(models / "verdicts-llama3", prompt, ["\n".join(steps)]) for steps in solutions]
    assert flat([found]) == pytest.approx(flat([expected]), abs=TOLERANCE)
    of_steps = scorer_of(models / "outcome", "--reward_of", "steps")
    assert len(of_steps.read(prompt, solutions[0]).places) == 3
    assert scorer_of(models / "verdicts-llama3", "--reward_of", "outcome").reward_of == "outcome"


@pytest.mark.parametrize(("directory", "judges"), [("scalar", "steps"), ("tags-chatml", "outcome")])
def test_what_a_head_cannot_judge_is_one_line(models, directory, judges):
    with pytest.raises(UserError, match=rf"--reward_of {judges}: .* which judges"):
        scorer_of(models / directory, "--reward_of", judges)


def test_public_directories_without_our_settings_are_process_models(models, tmp_path):
    """As `trl-lib` and RLHFlow publish them: steps, and a line break as separator; config and flag say otherwise."""
    assert "reward_of" not in json.loads((models / "tags-chatml" / "config.json").read_text())
    scorer = scorer_of(models / "tags-chatml")
    assert scorer.reward_of == "steps" and scorer.form.separator == "\n"
    assert scorer_of(models / "verdicts-chatml").reward_of == "steps"
    save_tagger(tmp_path / "own", step_separator="\n\n")
    assert scorer_of(tmp_path / "own").form.separator == "\n\n"
    assert scorer_of(tmp_path / "own", "--step_separator", " ки\n").form.separator == " ки\n"


# --- resuming ---


def test_a_second_run_computes_nothing_again_and_other_places_are_not_taken(models, tmp_path, monkeypatch):
    scorer = scorer_of(models / "tags-chatml")
    _, (two, three) = read_all(scorer)
    parts = tmp_path / "scores.jsonl"
    of_two = score_solutions(scorer, [[two]], parts)
    again = scorer_of(models / "tags-chatml")
    with monkeypatch.context() as patch:
        patch.setattr(type(again), "numbers", lambda *_: pytest.fail("computed again"))
        assert score_solutions(again, [[two]], parts) == of_two
    other = scorer_of(models / "tags-chatml")  # the same token ids, cut into other steps
    (of_three,) = score_solutions(other, [[three]], parts)[0]
    assert len(of_three) == 3 and of_three[1:] == pytest.approx(of_two[0][0], abs=TOLERANCE)
    remove_parts(parts)
    assert not list(tmp_path.iterdir())


def test_what_was_kept_for_another_reading_is_not_taken(models):
    """Of the same directory: steps and outcomes, and other separators, have other fingerprints; equal ones the same."""
    fingerprints = [
        scorer_of(models / name, *flags).fingerprint
        for name, flags in (
            ("verdicts-llama3", ()),
            ("verdicts-llama3", ("--reward_of", "outcome")),
            ("tags-chatml", ()),
            ("tags-chatml", ("--step_separator", "\n\n")),
        )
    ]
    assert len(set(fingerprints)) == 4 and scorer_of(models / "verdicts-llama3").fingerprint == fingerprints[0]


# --- what cannot be used ---


def test_a_solution_over_the_limit_is_refused(models):
    for name in ("verdicts-llama3", "tags-gemma", "scalar"):
        with pytest.raises(RowRefused) as refused:
            scorer_of(models / name).read("1?", ["It is one."], max_length_tokens=5)
        assert refused.value.reason == "over_max_length"


@pytest.mark.parametrize("name", ["verdicts-llama3", "tags-gemma", "scalar", "outcome"])
def test_the_model_itself_sets_a_limit_that_may_be_lowered(models, name):
    """As many tokens as it has positions are read, one more is not; without a limit in its config any number is."""
    scorer = scorer_of(models / name)
    num_tokens = len(scorer.read("1?", ["It is one."]).ids)
    assert scorer.num_positions == 2048
    for most, limit, is_read in (
        (num_tokens, None, True),
        (num_tokens - 1, None, False),
        (num_tokens - 1, 4096, False),
        (4096, num_tokens - 1, False),
        (None, None, True),
    ):
        limited = dataclasses.replace(scorer, num_positions=most)
        if is_read:
            assert len(limited.read("1?", ["It is one."], limit).ids) == num_tokens
        else:
            with pytest.raises(RowRefused, match=rf"the limit is {num_tokens - 1}\b"):
                limited.read("1?", ["It is one."], limit)


def test_models_that_cannot_score_steps_are_refused(models, tmp_path):
    with pytest.raises(UserError, match="no such directory"):
        scorer_of(tmp_path / "nowhere")
    with pytest.raises(UserError, match="--max_tokens_per_batch is 0"):
        scorer_of(models / "scalar", "--max_tokens_per_batch", "0")
    for architecture in ("LlamaForTokenClassification", "LlamaForSequenceClassification"):  # a language model in truth
        save_tiny_judge(tmp_path / architecture)
        set_config(tmp_path / architecture, architectures=[architecture], id2label={"0": "-", "1": "+"})
        with pytest.raises(UserError, match="has no reward head"):
            scorer_of(tmp_path / architecture)
    save_tiny_model(tmp_path / "base")  # the body of a language model alone
    set_config(tmp_path / "base", architectures=["LlamaModel"])
    with pytest.raises(UserError, match="is no causal language model: it has no lm_head"):
        scorer_of(tmp_path / "base")
    save_tiny_judge(tmp_path / "no template")
    (tmp_path / "no template" / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="has no chat template"):
        scorer_of(tmp_path / "no template")


def test_a_token_classifier_of_other_labels_is_refused(tmp_path):
    """For example one that finds names in a text: nine labels."""
    tokenizer = byte_tokenizer()
    AutoModelForTokenClassification.from_config(tiny_config("llama", len(tokenizer), num_labels=9)).save_pretrained(
        tmp_path
    )
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"does not tag steps as - and \+: its score.bias has the shape \(9,\)"):
        scorer_of(tmp_path)


def test_a_head_of_its_own_is_refused(tmp_path):
    shape = {"vocab_size": len(byte_tokenizer()), "n_embd": 32, "n_layer": 1, "n_head": 4}
    GPT2ForTokenClassification(GPT2Config(**shape)).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="GPT2ForTokenClassification has a head of its own"):
        scorer_of(tmp_path)


def test_a_token_classifier_needs_no_chat_template(tmp_path, models):
    """Its solutions are plain text."""
    save_tagger(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    scorer = scorer_of(tmp_path)
    expected = score_now(scorer_of(models / "tags-chatml"), [scorer.read("1?", ["2", "3"])])
    assert score_now(scorer, [scorer.read("1?", ["2", "3"])]) == expected
