"""The reward function of TRL's trainers: against plain Transformers, and in a step of GRPOTrainer.

Travels with the folder when it is copied.
"""

import math
from pathlib import Path

import pytest
from math_reward import make_reward_function, text_of
from test_best_of_n import KINDS, TOLERANCE, aggregates_of, plain_scores, save_models

from useful_code.split_steps import split_steps
from useful_code.user_errors import UserError

TEXTS = ["3 and 4 are 7.\nThe answer is 7.", "It is 8.\n\nThe answer\nis 8.", "Seven"]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("math_reward")
    save_models(folder)
    return folder


def by_hand(world: Path, kind: str, prompt: str, text: str, aggregation: str = "min") -> float:
    return aggregates_of(plain_scores(world, kind, prompt, split_steps(text)))[aggregation]


@pytest.mark.parametrize("kind", KINDS)
def test_rewards_of_several_prompts_in_any_order(world, kind):
    """Texts as TRL gives them for prompts without a chat template; columns of the data set are ignored."""
    reward = make_reward_function(str(world / kind))
    prompts = ["3 + 4?", "1 + 1?", "3 + 4?", "3 + 4?", "1 + 1?"]
    completions = [TEXTS[0], TEXTS[1], TEXTS[2], TEXTS[1], TEXTS[0]]
    found = reward(prompts=prompts, completions=completions, answer=["7"] * 5, completion_ids=[[1]] * 5)
    expected = [by_hand(world, kind, *pair) for pair in zip(prompts, completions, strict=True)]
    assert found == pytest.approx(expected, abs=TOLERANCE) and len(set(found)) == 5
    assert all(type(number) is float and 0 < number < 1 for number in found)


def test_chats_are_read_by_their_last_message(world):
    reward = make_reward_function(str(world / "verdicts"))
    prompts = [[{"role": "system", "content": "Think."}, {"role": "user", "content": "3 + 4?"}]] * 3
    completions = [[{"role": "assistant", "content": text}] for text in TEXTS]
    assert reward(prompts, completions) == pytest.approx(reward(["3 + 4?"] * 3, TEXTS), abs=TOLERANCE)
    assert text_of([{"role": "assistant", "content": None}]) == ""


def test_what_cannot_be_read_gets_the_worst_reward(world):
    """Empty, white space, no content, and too long: 0, below every other."""
    reward = make_reward_function(str(world / "verdicts"), max_length_tokens=200)
    texts = ["", " \n", TEXTS[0], "x" * 300]
    found = reward(["3 + 4?"] * 4, texts)
    assert found[0] == found[1] == found[3] == 0.0 < found[2]
    assert reward(["3 + 4?"], [[{"role": "assistant", "content": None}]]) == [0.0]
    assert reward([], []) == []


@pytest.mark.parametrize("max_length_tokens", [None, 5000])
def test_more_tokens_than_the_model_has_positions_get_the_worst_reward(world, max_length_tokens):
    """2048 of them; a higher limit does not help."""
    found = make_reward_function(str(world / "tags"), max_length_tokens=max_length_tokens)
    assert [number > 0 for number in found(["3 + 4?"] * 2, ["x" * 2000, "x" * 2100])] == [True, False]


def test_equal_completions_get_equal_rewards_and_nothing_piles_up(world):
    reward = make_reward_function(str(world / "tags"), max_tokens_per_batch=64)
    found = reward(["3 + 4?"] * 4, [TEXTS[0], TEXTS[1], TEXTS[0], TEXTS[1]])
    assert found[0] == found[2] and found[1] == found[3]
    (scorer,) = (cell.cell_contents for cell in reward.__closure__ if hasattr(cell.cell_contents, "places_of"))
    assert not scorer.places_of


@pytest.mark.parametrize("aggregation", ["min", "product", "mean", "last"])
def test_aggregations(world, aggregation):
    found = make_reward_function(str(world / "verdicts"), aggregation=aggregation)(["3 + 4?"] * 3, TEXTS)
    expected = [by_hand(world, "verdicts", "3 + 4?", text, aggregation) for text in TEXTS]
    assert found == pytest.approx(expected, abs=TOLERANCE)


def test_functions_have_names_of_their_own(world, monkeypatch):
    """TRL logs the rewards of each under its name."""
    monkeypatch.chdir(world / "tags")
    path = str(world / "verdicts")
    made = [(path, {}), (f"{path}/", {"aggregation": "last"}), (".", {}), (path, {"name": "steps"})]
    names = [make_reward_function(place, **options).__name__ for place, options in made]
    assert names == ["verdicts_min", "verdicts_last", "tags_min", "steps"]


def test_what_cannot_work_is_refused_at_once(world):
    with pytest.raises(UserError, match="median"):
        make_reward_function(str(world / "verdicts"), aggregation="median")
    with pytest.raises(UserError, match="nowhere"):
        make_reward_function("./nowhere")


@pytest.mark.slow
@pytest.mark.parametrize("is_chat", [False, True])
def test_a_step_of_grpo(world, tmp_path, monkeypatch, is_chat):
    """The real trainer logs the rewards that the function gave for the texts it sampled."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    rewarded, reward = [], make_reward_function(str(world / "verdicts"), aggregation="mean")

    def solution_reward(prompts, completions, **columns):
        found = reward(prompts, completions, **columns)
        rewarded.append((prompts, completions, found))
        return found

    problems = ["3 + 4?", "1 + 1?", "2 + 2?", "5 + 1?"]
    prompts = [[{"role": "user", "content": text}] for text in problems] if is_chat else problems
    settings = {"max_steps": 1, "per_device_train_batch_size": 4, "num_generations": 2, "max_completion_length": 24}
    trainer = GRPOTrainer(
        model=str(world / "outcome"),
        reward_funcs=solution_reward,
        args=GRPOConfig(
            output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", logging_steps=1, **settings
        ),
        train_dataset=Dataset.from_dict({"prompt": prompts}),
    )
    trainer.train()
    ((asked, completions, found),) = rewarded
    assert len(found) == 4 and len({text_of(prompt) for prompt in asked}) == 2
    for prompt, completion, number in zip(asked, completions, found, strict=True):
        expected = by_hand(world, "verdicts", text_of(prompt), text_of(completion), "mean")
        assert number == pytest.approx(expected, abs=TOLERANCE)
    (logged,) = (entry for entry in trainer.state.log_history if "reward" in entry)
    assert logged["reward"] == pytest.approx(sum(found) / 4, abs=1e-4) and math.isfinite(logged["loss"])
