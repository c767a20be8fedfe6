"""The ArmoRM model and its loader: padding, packing, the public layout, where the gate reads (METHODS 5.9.5 to .10)."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from useful_code.armorm import check_gating_tokens, gating_tokens, hidden_at_ends_and_gates, is_armorm, load_armorm
from useful_code.armorm_model import LLAMA3_GATING_TOKENS, ArmoRMForSequenceClassification, find_last
from useful_code.render import read_template, render
from useful_code.shared_prefix import pack, pad
from useful_code.tiny import STYLES, byte_tokenizer, tiny_config
from useful_code.user_errors import UserError

K = 5
FIELDS = {"num_objectives": K, "gating_temperature": 10, "gating_hidden_dim": 16, "gating_n_hidden": 3}


def chat(answer, question="hi there", history=()):
    return [*history, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def tiny_armorm(architecture="llama", style="chatml", **changes):
    """A random model whose gate differs from prompt to prompt, and its template."""
    template = read_template(byte_tokenizer(style))
    config = tiny_config(architecture, len(template.tokenizer), **changes)
    config.update(FIELDS | {"gating_tokens": gating_tokens(template), "pad_token_id": 0})
    torch.manual_seed(0)
    model = ArmoRMForSequenceClassification(config).eval()
    with torch.no_grad():
        model.reward_transform_matrix[2] = torch.tensor([-0.1, -0.2, 0, -0.3, 0])
        for layer in model.gating.layers:
            layer.weight.normal_(std=0.5)
    return model, template


@pytest.fixture
def saved(tmp_path):
    model, template = tiny_armorm()
    model.save_pretrained(tmp_path)
    template.tokenizer.save_pretrained(tmp_path)
    return tmp_path, model, template


@torch.no_grad()
def scores_of(model, batch):
    return model(**batch).score


# --- where the gate reads ---


@pytest.mark.parametrize("style", STYLES)
def test_the_gate_reads_at_the_end_of_the_last_user_turn(style):
    template = read_template(byte_tokenizer(style))
    tokens = gating_tokens(template)
    history = chat("an answer", "a question")
    for messages in (chat("yes"), chat("yes", history=history), chat("\n yes", history=[*history, *history])):
        ids = render(template, messages)
        place = find_last(ids, tokens)
        asked = render(template, messages[:-1])
        end_of_turn = {"llama3": "<|eot_id|>", "gemma": "<end_of_turn>", "chatml": "<|im_end|>"}[style]
        assert ids[place] == template.tokenizer.convert_tokens_to_ids(end_of_turn)
        assert place == max(i for i, token in enumerate(asked) if token == ids[place])  # the last one of the prompt


def test_reasoning_that_a_template_writes_before_the_answer_does_not_hide_the_end_of_the_prompt():
    """As Qwen3's does: an empty block where the answer brings none."""
    tokenizer = byte_tokenizer("chatml")
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{% if loop.last and m['role'] == 'assistant' and '</think>' not in m['content'] %}"
        "<think>\n\n</think>\n\n{% endif %}"
        "{{ m['content'] }}<|im_end|>\n{% endfor %}"
    )
    template = read_template(tokenizer)
    tokens = gating_tokens(template)
    assert tokenizer.decode(tokens).startswith("<|im_end|>\n<|im_start|>assistant\n")
    for answer in ("yes", "<think>\nwhy not\n</think>\n\nyes"):
        ids = render(template, chat(answer, history=chat("an answer", "a question")))
        assert (
            ids[: find_last(ids, tokens)]
            == render(template, chat("-", history=chat("an answer", "a question")))[: find_last(ids, tokens)]
        )
        assert tokenizer.decode(ids[find_last(ids, tokens) :]).startswith("<|im_end|>\n<|im_start|>assistant\n<think>")


@pytest.mark.parametrize("style", STYLES)
def test_text_that_looks_like_a_header_does_not_move_the_gate(style):
    template = read_template(byte_tokenizer(style))
    tokens = gating_tokens(template)
    header = template.tokenizer.decode(tokens).strip()  # as the templates do with it
    plain = find_last(render(template, chat("yes", "a" * len(header))), tokens)
    assert find_last(render(template, chat("yes", header)), tokens) == plain
    assert find_last(render(template, chat(header, "a" * len(header))), tokens) == plain


def test_a_text_without_the_end_of_a_prompt_is_an_error():
    with pytest.raises(ValueError, match="no token of this text closes a prompt"):
        find_last([1, 2, 3], [3, 1])


def test_a_row_that_cannot_be_scored_is_one_line(saved):
    """Token ids in which nothing closes a prompt, as a file of ids made elsewhere may have."""
    folder, _, _ = saved
    with pytest.raises(UserError, match="a row cannot be scored: no token of this text closes a prompt"):
        load_armorm(str(folder))(input_ids=torch.tensor([[65, 66, 67]]))


def test_a_template_that_closes_a_prompt_elsewhere_is_refused(saved):
    folder, _, template = saved
    model = load_armorm(str(folder))
    check_gating_tokens(model, template)
    with pytest.raises(UserError, match="--chat_template_path"):
        check_gating_tokens(model, read_template(byte_tokenizer("gemma")))


# --- the same score in every batch ---


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen3", "gemma2", "gemma3_text"])
@pytest.mark.parametrize("style", ["chatml", "llama3"])
def test_scores_do_not_depend_on_padding_company_or_packing(tmp_path, architecture, style):
    model, template = tiny_armorm(architecture, style)
    model.save_pretrained(tmp_path)
    ours = load_armorm(str(tmp_path)).eval()
    sequences = [render(template, chat(answer)) for answer in ("yes", "no, not at all", "x" * 40)]
    alone = torch.cat([scores_of(model, {"input_ids": torch.tensor([ids])}) for ids in sequences])
    assert len(set(alone.tolist())) == 3
    batches = [pad([sequences], 0), pad([sequences], 0, side="left")]
    for batch in batches:
        assert scores_of(model, batch) == pytest.approx(alone, abs=1e-6)
        assert scores_of(ours, batch) == pytest.approx(alone, abs=1e-6)
    assert ours.shares_prefix == (architecture != "gemma2")  # soft-capped attention
    if ours.shares_prefix:
        other = [render(template, chat(answer, "something else")) for answer in ("a", "b")]
        packed = scores_of(ours, pack([sequences, other]))
        assert packed[:3] == pytest.approx(alone, abs=1e-6)


def test_without_a_mask_a_pad_token_that_also_closes_a_turn_is_read(saved):
    """SmolLM2 and many others pad with the token that ends a turn; the template ends with a line break behind it."""
    _, model, template = saved
    ids = render(template, chat("yes", history=chat("an answer", "a question")))
    end = ids[-2]
    assert template.tokenizer.decode([end]) == "<|im_end|>" and ids.count(end) == 4
    model.config.pad_token_id = end
    alone = scores_of(model, {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids))})
    for padded in (ids, [*ids, end, end], [end, *ids]):
        assert scores_of(model, {"input_ids": torch.tensor([padded])}) == pytest.approx(alone, abs=1e-5)


def test_without_a_mask_the_pad_token_says_where_a_text_ends(saved):
    _, model, template = saved
    sequences = [render(template, chat(answer)) for answer in ("yes", "a longer one")]
    batch = pad([sequences], 0)
    with_mask = scores_of(model, batch)
    assert scores_of(model, {"input_ids": batch["input_ids"]}) == pytest.approx(with_mask, abs=1e-6)


# --- what the fields say ---


def test_the_fields_are_those_of_the_public_model(saved):
    """score = sum of rewards T weighed by the gate = sum of rewards . (gating_output T'); METHODS 5.9.6."""
    _, model, template = saved
    ids = torch.tensor([render(template, chat("yes"))])
    with torch.no_grad():
        output = model(ids)
    assert output.rewards.shape == output.gating_output.shape == (1, K)
    assert output.hidden_state.shape == output.prompt_embedding.shape == (1, 32)
    assert torch.equal(output.score, output.logits) and output.score.shape == (1,)
    transform = model.reward_transform_matrix
    assert (output.rewards @ transform * output.gating_output).sum() == pytest.approx(output.score.item(), abs=1e-6)
    coefficients = output.gating_output @ transform.T
    assert (output.rewards * coefficients).sum() == pytest.approx(output.score.item(), abs=1e-6)
    assert coefficients[0, 2] <= 0 and output.gating_output.sum().item() == pytest.approx(1)


def test_the_gate_does_not_see_the_answer(saved):
    _, model, template = saved
    with torch.no_grad():
        gates = [model(torch.tensor([render(template, chat(text))])).gating_output for text in ("yes", "no, never")]
        other = model(torch.tensor([render(template, chat("yes", "what?"))])).gating_output
    assert gates[0] == pytest.approx(gates[1], abs=1e-6)
    assert (gates[0] - other).abs().max() > 1e-3


def test_the_heads_stay_float32_when_the_decoder_is_loaded_in_bfloat16(saved):
    folder, _, template = saved
    model = load_armorm(str(folder), dtype=torch.bfloat16)
    heads = {name: tensor.dtype for name, tensor in model.state_dict().items() if not name.startswith("model.")}
    assert set(heads.values()) == {torch.float32}
    assert next(model.model.parameters()).dtype == torch.bfloat16
    assert scores_of(model, pad([[render(template, chat("yes"))]], 0)).dtype == torch.float32


def test_embeddings_are_the_hidden_states_that_the_model_uses(saved):
    folder, model, template = saved
    sequences = [render(template, chat(answer)) for answer in ("yes", "no, not at all")]
    ours = load_armorm(str(folder)).eval()
    with torch.no_grad():
        output = model(**pad([sequences], 0))
        ends, gates = hidden_at_ends_and_gates(ours.model, ours.gating_tokens, **pack([sequences]))
    assert ends == pytest.approx(output.hidden_state, abs=1e-5)
    assert gates == pytest.approx(output.prompt_embedding, abs=1e-5)


# --- the public layout ---


def test_a_checkpoint_in_the_public_layout_is_read_without_its_code(saved):
    """Tensor names and config fields of RLHFlow/ArmoRM-Llama3-8B-v0.1 (METHODS 5.6), and code that must not run."""
    folder, model, template = saved
    names = set(load_file(folder / "model.safetensors"))
    heads = {"regression_layer.weight", "reward_transform_matrix", "gating.logit_scale"}
    heads |= {f"gating.layers.{i}.{part}" for i in range(4) for part in ("weight", "bias")}
    assert {name for name in names if not name.startswith("model.")} == heads
    config = json.loads((folder / "config.json").read_text())
    assert FIELDS.items() <= config.items()
    config["architectures"] = ["LlamaForRewardModelWithGating"]
    config["auto_map"] = {"AutoModelForSequenceClassification": "modeling_custom.LlamaForRewardModelWithGating"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_custom.py").write_text("raise RuntimeError('code of the model ran')\n")
    batch = pad([[render(template, chat("yes"))]], 0)
    assert scores_of(load_armorm(str(folder)).eval(), batch) == pytest.approx(scores_of(model, batch), abs=1e-6)


def test_the_public_config_names_no_tokens_and_means_those_of_llama3(saved):
    folder, _, _ = saved
    config = json.loads((folder / "config.json").read_text())
    del config["gating_tokens"]
    (folder / "config.json").write_text(json.dumps(config))
    assert load_armorm(str(folder)).gating_tokens == LLAMA3_GATING_TOKENS == [128009, 128006, 78191, 128007, 271]


def test_a_part_that_is_missing_is_named(saved):
    folder, _, _ = saved
    tensors = load_file(folder / "model.safetensors")
    del tensors["gating.logit_scale"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="no whole ArmoRM: it has no gating.logit_scale"):
        load_armorm(str(folder))


def test_other_configs_are_no_armorm():
    assert not is_armorm(tiny_config("llama", 10))
    with pytest.raises(UserError, match="no ArmoRM can be loaded from './nothing'"):
        load_armorm("./nothing")
