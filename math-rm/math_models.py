"""The models of both trainers of this folder: loaded to train, saved, and reloaded to compare."""

from functools import partial
from typing import Any

from transformers import Trainer
from trl import ModelConfig

from useful_code.render import Template
from useful_code.reward_model import in_float32, load_tokenizer
from useful_code.step_model import load_step_tagger
from useful_code.step_prompt import StepForm, TagForm, VerdictForm, tag_form, verdict_form
from useful_code.step_scoring import plain_template
from useful_code.training.save_load import check_saved_rewards, save_model
from useful_code.training.trainable import load_template, load_to_train, load_trainable_judge, model_path

UNKNOWN = -100  # in place of a label: a step without one, or no step


def load_form(model_arguments: ModelConfig, arguments) -> tuple[StepForm, Any, int]:
    """How the model reads solutions (`arguments.form`: verdicts or tags), its tokenizer, and the id to pad with."""
    if arguments.form == "verdicts":
        template, pad_token_id = load_template(
            model_arguments, arguments.chat_template_path, arguments.trust_remote_code, may_open_turn=True
        )
        return verdict_form(template), template.tokenizer, pad_token_id
    path, revision = model_path(model_arguments), model_arguments.model_revision
    tokenizer = load_tokenizer(path, arguments.chat_template_path, arguments.trust_remote_code, revision=revision)
    return tag_form(tokenizer, arguments.step_separator), tokenizer, plain_template(tokenizer)[1]


def load_trainable_form(model_arguments: ModelConfig, form: StepForm, seed: int, arguments, reward_of: str):
    """The language model or token classifier of this form, ready to train; its config says what it judges."""
    trusted = arguments.trust_remote_code
    if isinstance(form, VerdictForm):
        model = load_trainable_judge(model_arguments, arguments.train_last_layers, trusted)
    else:
        load = partial(load_step_tagger, trust_remote_code=trusted, seed=seed)
        # PEFT trains and saves the head of a TOKEN_CLS model beside the adapter.
        model = load_to_train(
            model_arguments, load, lambda model: model.score, "TOKEN_CLS", arguments.train_last_layers
        )
        model.config.step_separator = form.separator
    model.config.reward_of = reward_of
    return model


def save_and_check_form(
    trainer: Trainer,
    model_arguments: ModelConfig,
    form: StepForm | Template,
    rows: list[dict],
    trust_remote_code: bool = False,
) -> float:
    """Save, reload with plain Transformers, and compare the log-odds of the first, a middle and the last step of `rows`
    (with `ids`, `places` and `targets`): the largest difference. A `Template` stands for a scalar head, whose one
    number is compared. Called by all processes; errors as in `check_saved_rewards`."""
    with in_float32(trainer.model):
        predictions: Any = trainer.predict(rows).predictions  # type: ignore[arg-type]  # (N, K)
    sequences, log_odds = [], []
    for row, of_row in zip(rows, predictions, strict=True):
        last = len(row["places"]) - 1
        for step in sorted({0, last // 2, last}):
            sequences.append(row["ids"][: row["places"][step] + 1])  # what comes after a step is not seen at it
            log_odds.append(float(of_row[step]))
    directory = save_model(
        trainer, str(model_arguments.model_name_or_path), model_arguments.model_revision, trust_remote_code
    )
    flags = [] if isinstance(form, Template) else ["--log_odds", *(["--tags"] if isinstance(form, TagForm) else [])]
    token_ids = form.token_ids if isinstance(form, VerdictForm) else ()
    return check_saved_rewards(trainer, directory, sequences, log_odds, trust_remote_code, token_ids, flags)
