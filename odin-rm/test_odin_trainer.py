"""What the trainer reads and computes, across passes and processes, and which head takes the length.

Travels with the folder when it is copied.
"""

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from batch_correlations import MomentsInCheckpoints, gather_rows
from normalised_heads import add_nuisance_heads, heads_of, keep_quality_head
from nuisances import head_names, trait_counter
from odin_examples import chat, heads, loaded
from torch import nn
from train_odin import (
    Arguments,
    OdinTrainer,
    TrainArguments,
    collate_pairs,
    ranking_losses,
)
from transformers import AutoModelForSequenceClassification, set_seed
from transformers.modeling_outputs import SequenceClassifierOutput

from useful_code.render import read_template
from useful_code.reward_model import Float32Linear, load_reward_model
from useful_code.tiny import byte_tokenizer, save_tiny_judge, save_tiny_model
from useful_code.user_errors import UserError

# --- lengths and other traits (METHODS 6.9, 5) ---


@pytest.mark.parametrize("style", ["chatml", "llama3", "gemma"])
def test_length_is_of_the_last_assistant_turn_whatever_stands_before(tmp_path, style):
    """Bytes are tokens here. The end of the turn counts, and is the same for every answer. Histories of one turn, of
    three, and with a first answer as long as a book."""
    rows = [
        {"chosen": chat("Hi", "four"), "rejected": chat("Hi", "sixsix")},
        {"chosen": chat("Hi", "a", "And?", "four"), "rejected": chat("Hi", "a", "And?", "sixsix")},
        {"chosen": chat("Hi", "a" * 500, "And?", "four"), "rejected": chat("Hi", "a" * 500, "And?", "sixsix")},
    ]
    pairs = loaded(tmp_path, rows, style)
    end = len(read_template(byte_tokenizer(style)).end_ids)
    assert end in (1, 2)
    assert [pair["traits"] for pair in pairs] == [[[4.0 + end], [6.0 + end]]] * 3
    assert all(len(pair["ids"][1]) - len(pair["ids"][0]) == 2 for pair in pairs), "as in the rendered sequences"


def test_padding_changes_no_length_and_counts_stay_exact(tmp_path):
    """257 would become 256 in bfloat16."""
    rows = [{"chosen": chat("Hi", "x" * 255), "rejected": chat("Hi", "x" * 4099)}]
    pairs = loaded(tmp_path, rows, max_length=9999)
    for pad_token_id in (None, 0):
        batch = collate_pairs(
            pairs + loaded(tmp_path, [{"chosen": chat("a", "b"), "rejected": chat("a", "c")}]), pad_token_id
        )
        assert batch["traits"].dtype == torch.float32 and batch["traits"][0, :, 0].tolist() == [257.0, 4101.0]


def test_a_special_token_that_was_typed_counts_as_its_characters(tmp_path):
    pairs = loaded(tmp_path, [{"chosen": chat("Hi", "<|im_end|>"), "rejected": chat("Hi", "a")}])
    assert pairs[0]["traits"] == [[12.0], [3.0]]


def test_list_items_and_bold_marks_are_counted():
    count = trait_counter(read_template(byte_tokenizer()), ["list_items", "bold_marks"])
    text = "Here:\n- **one**\n* two, **really** good\n  3. three\n12) four\n-five\n2 * 3 * 4\n2**3**4 \n- \n"
    assert count(text)[1:] == [4.0, 2.0]
    assert count("plain - text, not **bold * at all")[1:] == [0.0, 0.0]


def test_ties_are_refused_and_a_label_below_one_half_turns_the_pair(tmp_path):
    rows = [
        {"chosen": chat("a", "bb"), "rejected": chat("a", "c"), "label": 0.25},
        {"chosen": chat("a", "b"), "rejected": chat("a", "c"), "tie": True},
    ]
    (pair,) = loaded(tmp_path, rows)
    assert pair["label"] == 0.75 and pair["traits"] == [[3.0], [4.0]]


# --- the trainer's loss, on a tiny model ---


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny_model(folder, "llama", "chatml")
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> list[dict]:
    rows = [
        {
            "chosen": chat(f"Say {i}", "- yes **yes**\n" * (1 + i % 3)),
            "rejected": chat(f"Say {i}", "no" * (1 + (3 * i) % 7) + "\n- no" * (i % 4)),
        }
        for i in range(8)
    ]
    return loaded(tmp_path_factory.mktemp("pairs"), rows, further_heads=["list_items"])


def trainer_of(tiny: Path, folder: Path, **method) -> OdinTrainer:
    """With heads for quality, length and list items."""
    model = load_reward_model(str(tiny))
    add_nuisance_heads(model, 2, seed=0)
    arguments = Arguments(dataset="-", further_heads=["list_items"], **({"correlation_pairs": 3} | method))
    settings = TrainArguments(output_dir=str(folder), use_cpu=True)
    return OdinTrainer(
        method=arguments, moments=MomentsInCheckpoints(head_names(["list_items"])), model=model.train(), args=settings
    )


def loss_of(trainer: OdinTrainer, pairs: list[dict], num_items: int | None = None, pad_token_id: int | None = None):
    batch = collate_pairs(pairs, pad_token_id)
    return trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor(num_items or len(pairs)))


@pytest.mark.parametrize("packed", [True, False])
def test_the_loss_of_a_batch_is_that_of_the_equations_on_plain_forward_passes(tiny, pairs, tmp_path, packed):
    """Hidden states from plain Transformers, one text at a time; Eq. 8 to 11 in NumPy. Pair by pair, rows of unit
    length, both sides, both nuisances, orthogonality."""
    trainer = trainer_of(tiny, tmp_path, length_weight=0.7, orthogonality_weight=0.3)
    rows = torch.cat((trainer.model.score.weight, trainer.model.score.nuisance_weight)).detach().double().numpy()
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    plain = AutoModelForSequenceClassification.from_pretrained(tiny).model.eval()
    hidden = [
        [plain(torch.tensor([list(ids)])).last_hidden_state[0, -1].tolist() for ids in pair["ids"]] for pair in pairs
    ]
    rewards = np.array(hidden) @ rows.T  # (8, 2, 3)
    traits = np.array([pair["traits"] for pair in pairs])  # (8, 2, 2)
    total = rewards.sum(-1)
    ranking = np.logaddexp(0, total[:, 1] - total[:, 0]).mean()
    length_terms, correlations = 0.0, {}
    for side, trait in itertools.product((0, 1), (0, 1)):
        quality, own = (np.corrcoef(rewards[:, side, head], traits[:, side, trait])[0, 1] for head in (0, trait + 1))
        length_terms += abs(quality) - own
        correlations[side, trait] = quality, own
    cosines = np.abs(rows[1:] @ rows[0])
    loss = loss_of(trainer, pairs, pad_token_id=None if packed else 0)
    assert loss.item() == pytest.approx(ranking + 0.7 * length_terms + 0.3 * cosines.sum(), abs=1e-4)
    logged = trainer.step_means.pop()
    margins = rewards[:, 0] - rewards[:, 1]
    assert logged == pytest.approx(
        {
            "ranking_loss": ranking,
            "orthogonality_loss": cosines.sum(),
            "quality_length_correlation": np.mean([correlations[side, 0][0] for side in (0, 1)]),
            "length_head_correlation": np.mean([correlations[side, 0][1] for side in (0, 1)]),
            "quality_list_items_correlation": np.mean([correlations[side, 1][0] for side in (0, 1)]),
            "list_items_head_correlation": np.mean([correlations[side, 1][1] for side in (0, 1)]),
            "accuracy": (margins[:, 0] > 0).mean(),
            "accuracy_of_sum": (margins.sum(-1) > 0).mean(),
            "margin": margins[:, 0].mean(),
        },
        abs=1e-4,
    )


def test_without_its_weight_a_term_is_gone_and_nothing_else(tiny, pairs, tmp_path):
    """lambda_O = 0 changes the total by exactly L_O; with lambda_L = 0 too the ranking loss is left."""
    trainer = trainer_of(tiny, tmp_path)
    full = loss_of(trainer, pairs)
    means = trainer.step_means.pop()
    without = loss_of(trainer_of(tiny, tmp_path, orthogonality_weight=0.0), pairs)
    assert full.item() - without.item() == pytest.approx(means["orthogonality_loss"], abs=1e-6)
    assert means["orthogonality_loss"] > 0.01
    bare = loss_of(trainer_of(tiny, tmp_path, orthogonality_weight=0.0, length_weight=0.0), pairs)
    assert bare.item() == pytest.approx(means["ranking_loss"], abs=1e-6)


def test_every_term_reaches_the_heads_and_the_backbone(tiny, pairs, tmp_path):
    for method in ({"orthogonality_weight": 0.0}, {"length_weight": 0.0}, {}):
        trainer = trainer_of(tiny, tmp_path, **method)
        loss_of(trainer, pairs).backward()
        for name, weight in trainer.model.named_parameters():
            assert weight.grad is not None and torch.isfinite(weight.grad).all(), name
        assert trainer.model.score.nuisance_weight.grad.norm(dim=-1).min() > 0


def test_accumulated_passes_weigh_as_their_share_of_the_step(tiny, pairs, tmp_path):
    """Six pairs and two in one step of eight: the ranking loss is that of all eight; the terms of the first pass, and
    those of the second, which has no correlation by itself, weigh 6/8 and 2/8."""
    parts = (pairs[:6], pairs[6:])
    found = [loss_of(trainer_of(tiny, tmp_path), part, num_items=8).item() for part in parts]
    expected = [len(part) / 8 * loss_of(trainer_of(tiny, tmp_path), part).item() for part in parts]
    assert found == pytest.approx(expected, abs=1e-6)
    trainer = trainer_of(tiny, tmp_path)
    loss_of(trainer, parts[1])
    assert "length_head_correlation" not in trainer.step_means.pop()


def test_what_is_not_defined_is_not_logged_and_does_not_lower_a_mean(tiny, pairs, tmp_path):
    """A pass of seven pairs and one of a single pair, in one step; then list items that are the same everywhere."""
    trainer = trainer_of(tiny, tmp_path, correlation_pairs=3)
    loss_of(trainer, pairs[:7], num_items=8)
    alone = dict(trainer.step_means.totals)
    trainer.moments.past = None
    loss_of(trainer, pairs[7:], num_items=8)
    both = trainer.step_means.totals
    for name in ("quality_length_correlation", "list_items_head_correlation"):
        assert torch.equal(both[name], alone[name]) and alone[name][1] == 2, "chosen and rejected of one pass"
    trainer = trainer_of(tiny, tmp_path)
    even = [pair | {"traits": [[traits[0], 2.0] for traits in pair["traits"]]} for pair in pairs]
    loss = loss_of(trainer, even)
    logged = trainer.step_means.pop()
    assert loss.isfinite() and "length_head_correlation" in logged
    assert not {"quality_list_items_correlation", "list_items_head_correlation"} & set(logged)


def test_running_moments_reach_from_pass_to_pass_up_to_the_window(tiny, pairs, tmp_path):
    """With a window of 8 two passes of 4 have, in the second, moments of both; a window of 4 forgets the first."""
    for window, expected in ((4, pairs[4:]), (8, None)):
        trainer = trainer_of(tiny, tmp_path, correlation_pairs=window)
        for part in (pairs[:4], pairs[4:]):
            trainer.step_means.pop()
            loss_of(trainer, part)
        last = trainer.step_means.pop()["length_head_correlation"]
        assert trainer.moments.past.weight == (4 if expected else 6), "4 + 4 * (1 - 4/8)"
        if expected:
            fresh = trainer_of(tiny, tmp_path)
            loss_of(fresh, expected)
            assert last == pytest.approx(fresh.step_means.pop()["length_head_correlation"], abs=1e-6)


def test_evaluation_has_the_ranking_loss_and_leaves_the_moments_alone(tiny, pairs, tmp_path):
    trainer = trainer_of(tiny, tmp_path)
    trainer.model.eval()
    batch = collate_pairs(pairs, None)
    loss, outputs = trainer.compute_loss(
        trainer.model, batch, return_outputs=True, num_items_in_batch=torch.tensor(len(pairs))
    )
    assert loss.item() == pytest.approx(ranking_losses(outputs["rewards"], batch["labels"]).mean().item())
    assert trainer.moments.past is None and outputs["rewards"].shape == (8, 2, 3)
    assert torch.equal(outputs["traits"], batch["traits"])


class OneOfTwo:
    """What the trainer asks of accelerate, as process `process_index` of several with these `values` (n, ...) each."""

    def __init__(self, process_index: int, values: list[torch.Tensor]):
        self.process_index, self.num_processes = process_index, len(values)
        self.values = [each.detach() for each in values]

    def gather(self, mine: torch.Tensor) -> torch.Tensor:
        counts = [len(each) for each in self.values]
        if mine.dim() == 1:
            assert mine.tolist() == [counts[self.process_index]]
            return torch.tensor(counts)
        padded = [F.pad(each, (0, 0, 0, 0, 0, max(counts) - len(each))) for each in self.values]
        torch.testing.assert_close(mine, padded[self.process_index])
        return torch.cat(padded)


@pytest.mark.parametrize("cut", [4, 7])
def test_two_processes_have_the_loss_and_the_gradient_of_one(tiny, pairs, tmp_path, cut):
    """Four pairs each, then seven and one, as batches filled by tokens have it. Processes average their gradients. The
    test below runs real processes."""
    whole = trainer_of(tiny, tmp_path)
    expected = loss_of(whole, pairs)
    expected.backward()
    parts = (pairs[:cut], pairs[cut:])
    values = []
    for part in parts:
        trainer = trainer_of(tiny, tmp_path)
        batch = collate_pairs(part, None)
        _, outputs = trainer.compute_loss(trainer.model.eval(), batch, return_outputs=True, num_items_in_batch=8)
        values.append(torch.cat((outputs["rewards"], outputs["traits"]), -1))
    losses, gradients = [], []
    for index, part in enumerate(parts):
        trainer = trainer_of(tiny, tmp_path)
        trainer.accelerator = OneOfTwo(index, values)
        loss = loss_of(trainer, part, num_items=8)
        loss.backward()
        losses.append(loss.item())
        gradients.append([weight.grad for weight in trainer.model.parameters()])
    assert np.mean(losses) == pytest.approx(expected.item(), abs=1e-5)
    for weight, *each in zip(whole.model.parameters(), *gradients, strict=True):
        rounding = (
            1e-5 * weight.grad.abs().max().item()
        )  # small elements are differences of large terms (here up to 40)
        torch.testing.assert_close(torch.stack(each).mean(0), weight.grad, atol=rounding, rtol=0)


def test_one_process_gathers_its_own_rows():
    values = torch.randn(3, 2, 2, requires_grad=True)
    assert gather_rows(values, SimpleNamespace(num_processes=1)) is values


# --- does it do what it is for? (METHODS 6.9, 6) ---


class ToyModel(nn.Module):
    """Features (S, 6) in place of texts: a small network and the heads of the recipe."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 16))
        self.score = heads(*torch.randn(2, 16).tolist())

    def forward(self, features):
        scores, cosines = self.score(self.body(features))
        return SequenceClassifierOutput(logits=(scores, cosines))


def collate_features(rows: list[dict]) -> dict:
    features = torch.tensor([side for row in rows for side in row["features"]])
    return {
        "labels": torch.ones(len(rows)),
        "traits": torch.tensor([row["traits"] for row in rows]),
        "features": features,
    }


def train_toy(folder: Path, utility, passes: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Rewards (N, 2, K) and lengths (N, 2) of held-out pairs. The first of six features is the length, standardised.
    A step has 128 pairs, in so many `passes`."""
    rng = np.random.default_rng(0)
    set_seed(0)
    features = rng.normal(size=(6000, 2, 6)).astype(np.float32)
    lengths = 200 + 50 * features[..., 0]
    order = np.argsort(-utility(features), axis=1)  # chosen first
    features = np.take_along_axis(features, order[..., None], 1).tolist()
    lengths = np.take_along_axis(lengths, order, 1)
    rows = [{"features": f, "traits": length[:, None].tolist()} for f, length in zip(features, lengths, strict=True)]
    trainer = OdinTrainer(
        method=Arguments(dataset="-"),
        moments=MomentsInCheckpoints(head_names()),
        model=ToyModel(),
        args=TrainArguments(
            output_dir=str(folder),
            learning_rate=1e-2,
            num_train_epochs=15,
            per_device_train_batch_size=128 // passes,
            per_device_eval_batch_size=500,
            gradient_accumulation_steps=passes,
            save_strategy="no",
            disable_tqdm=True,
            label_names=["labels"],
            use_cpu=True,
        ),
        train_dataset=rows[:3000],
        data_collator=collate_features,
    )
    trainer.train()
    rewards, _ = trainer.predict(rows[3000:]).predictions
    return rewards, lengths[3000:]


@pytest.mark.parametrize("passes", [1, 4])
def test_where_length_is_all_that_is_preferred_the_length_head_takes_it(tmp_path, passes):
    """With four passes a step, of 32 pairs each, by the running moments of 128."""
    rewards, lengths = train_toy(tmp_path, lambda features: features[..., 0], passes)
    for side in (0, 1):
        assert abs(np.corrcoef(rewards[:, side, 0], lengths[:, side])[0, 1]) < 0.1
        assert np.corrcoef(rewards[:, side, 1], lengths[:, side])[0, 1] > 0.9
    assert (rewards.sum(-1)[:, 0] > rewards.sum(-1)[:, 1]).mean() > 0.9, "the sum has learnt the preference"


def test_where_length_does_not_matter_the_quality_head_is_as_good_as_the_sum(tmp_path):
    rewards, lengths = train_toy(tmp_path, lambda features: features[..., 1] + features[..., 2])
    accuracy = (rewards[:, 0, 0] > rewards[:, 1, 0]).mean()
    assert accuracy > 0.9 and accuracy > (rewards.sum(-1)[:, 0] > rewards.sum(-1)[:, 1]).mean() - 0.03
    assert abs(np.corrcoef(rewards[..., 0].flatten(), lengths.flatten())[0, 1]) < 0.1


# --- what is kept (METHODS 6.9, 8 and 9) ---


def test_the_quality_head_that_is_kept_is_plain_and_scores_the_same(tiny, pairs, tmp_path):
    trainer = trainer_of(tiny, tmp_path)
    model = trainer.model.eval()
    batch = collate_pairs(pairs, None)
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "traits")}
    with torch.no_grad():
        scores, cosines = model(**inputs).logits
        rows = keep_quality_head(model)
        kept = model(**inputs).logits
    torch.testing.assert_close(kept, scores[:, :1])
    assert type(model.score) is Float32Linear and list(dict(model.score.named_parameters())) == ["weight"]
    torch.testing.assert_close(rows[:1], model.score.weight.detach())
    torch.testing.assert_close(rows.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(rows[1:] @ rows[0], cosines)


def test_nuisance_rows_come_from_the_seed_and_are_not_the_quality_row(tmp_path):
    """Of a language model the quality row is drawn as well, from the same seed."""
    save_tiny_judge(tmp_path)
    found = []
    for seed in (0, 0, 1):
        model = load_reward_model(str(tmp_path), seed=seed)
        assert model.missing_head
        add_nuisance_heads(model, 2, seed)
        found.append(heads_of(model).nuisance_weight.detach())
        _, cosines = model.score(torch.zeros(1, 32))
        assert cosines.abs().max() < 0.9, "parallel rows would never come apart"
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_a_head_that_is_not_one_plain_layer_is_refused():
    model = nn.Module()
    model.score = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    with pytest.raises(UserError, match="one linear layer without a bias, as"):
        add_nuisance_heads(model, 1, 0)
