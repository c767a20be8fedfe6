"""The logits of the verdict: those of plain Transformers at the last token, however the batch is made."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from useful_code.pair_prompt import ids_to_verdict, read_verdicts
from useful_code.render import read_template
from useful_code.shared_prefix import num_packed_tokens, pack, pad
from useful_code.tiny import ARCHITECTURES, byte_tokenizer, save_tiny_model, tiny_config
from useful_code.user_errors import UserError
from useful_code.verdict_model import labels_of, load_verdict_model, prepare_verdict_model

PROMPT = [{"role": "user", "content": "Which one, please?"}]


def tiny_judge(architecture, seed=0, **changes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = tiny_config(architecture, len(byte_tokenizer()), **changes)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


@pytest.fixture(scope="module")
def groups():
    """Both orders of two pairs, in groups that share their context."""
    template = read_template(byte_tokenizer())
    verdicts = read_verdicts(template)
    answers = [("a short one", "another, which is a good deal longer than that"), ("yes", "no")]
    orders = [(pair, pair[::-1]) for pair in answers]
    return [[ids_to_verdict(template, verdicts, PROMPT, *order) for order in both] for both in orders]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_are_those_of_plain_transformers(architecture, groups):
    model = tiny_judge(architecture).eval()
    sequences = [ids for group in groups for ids in group]
    with torch.inference_mode():
        plain = torch.stack([model(input_ids=torch.tensor([list(ids)])).logits[0, -1] for ids in sequences])
        prepare_verdict_model(model)
        batches = [pad(groups, 0), pad(groups, 0, side="left")]
        assert model.shares_prefix == (architecture != "gemma2")
        if model.shares_prefix:
            batches.append(pack(groups))
            assert num_packed_tokens(groups[0]) < sum(map(len, groups[0])) - 40  # the context stands once
        for batch in batches:
            torch.testing.assert_close(model(**batch).logits, plain, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(
                model(**batch, token_ids=(65, 7)).logits, plain[:, [65, 7]], rtol=1e-4, atol=1e-5
            )


def test_logits_are_computed_in_float32(groups):
    model = tiny_judge("llama").eval()
    prepare_verdict_model(model)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        assert model(**pack(groups), token_ids=(65, 66)).logits.dtype == torch.float32
        assert model(**pack(groups)).logits.dtype == torch.float32


def test_a_saved_model_remembers_its_labels_and_is_read_by_plain_transformers(tmp_path, groups):
    model = tiny_judge("llama")
    assert labels_of(model) == ("A", "B")
    model.config.pair_labels = ["A", "B", "C"]
    model.save_pretrained(tmp_path)
    loaded = load_verdict_model(str(tmp_path)).eval()
    assert labels_of(loaded) == ("A", "B", "C")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = groups[0][0]
    with torch.inference_mode():
        expected = plain(input_ids=torch.tensor([list(ids)])).logits[0, -1]
        torch.testing.assert_close(loaded(**pack([[ids]])).logits[0], expected, rtol=1e-4, atol=1e-5)


def test_what_is_no_causal_language_model_is_refused(tmp_path):
    save_tiny_model(tmp_path / "scalar")
    with pytest.raises(UserError, match="is no causal language model: it has no lm_head"):
        load_verdict_model(str(tmp_path / "scalar"))
    with pytest.raises(UserError, match="no such directory"):
        load_verdict_model("./nowhere")
    model = tiny_judge("llama")
    model.config.logit_scale = 0.25
    with pytest.raises(UserError, match="its logits are changed by logit_scale"):
        prepare_verdict_model(model)
