"""Score solutions with a process or an outcome reward model: every step of a solution in one forward pass, and the
problem computed once for all solutions of it.

Three kinds of directory, told apart by the architecture in their config: a causal language model (verdicts), a token
classifier (tags), a sequence classifier (one number for the whole solution: the scalar outcome model). Which of the
first reads whole solutions stands in its config, `reward_of`; the public ones do not say, and are taken for process
models unless --reward_of outcome is given.

A score is a probability: that a step is right, or that the answer is. METHODS 7.6.

Shapes: S solutions of one problem, K steps of a solution.
"""

import argparse
import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState

from useful_code.metrics import sigmoid
from useful_code.model_files import model_fingerprint
from useful_code.render import Template, ensure_pad_token, read_template
from useful_code.response_rows import check_output
from useful_code.resumable_scoring import score_resumably
from useful_code.reward_model import load_reward_model, weights_type
from useful_code.scoring import Scorer, load_config, load_tokenizer_of, score_batch
from useful_code.shared_prefix import flat_places
from useful_code.step_model import load_step_tagger
from useful_code.step_prompt import StepForm, StepIds, TagForm, VerdictForm, read_outcome, tag_form, verdict_form
from useful_code.user_errors import UserError
from useful_code.verdict_model import load_verdict_model

REWARD_OF = ("steps", "outcome")


@dataclass(frozen=True)
class StepScorer(Scorer):
    """A model in evaluation mode and how it reads solutions. `form` None: a scalar outcome model."""

    form: StepForm | None = None
    reward_of: str = "steps"
    num_positions: int | None = None  # of the model; None: its config names no limit
    places_of: dict[bytes, tuple[int, ...]] = field(default_factory=dict)  # of token ids that were read

    def read(self, prompt: str, steps: Sequence[str], max_length_tokens: int | None = None) -> StepIds:
        """Token ids and places of a solution. Raises RowRefused for one that cannot be read or is too long: for the
        model, or for a lower limit that is given."""
        limit = min((most for most in (max_length_tokens, self.num_positions) if most is not None), default=None)
        if self.form is None:
            return read_outcome(self.template, prompt, steps, limit)
        if self.reward_of == "outcome" and isinstance(self.form, VerdictForm):
            return read_outcome(self.form, prompt, steps, limit)
        return self.form.read(prompt, steps, max_length_tokens=limit)

    def numbers(self, batch: dict, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-odds of every place of these sequences, S lists, in float32."""
        if self.form is None:
            return self.model(**batch).logits.float().tolist()
        places = [self.places_of[_digest(sequence)] for sequence in sequences]
        token_ids = self.form.token_ids if isinstance(self.form, VerdictForm) else None
        flat = flat_places(batch, places).to(batch["input_ids"].device)  # (S, K)
        logits = self.model(**batch, places=flat, token_ids=token_ids).logits.float()  # (M, 2)
        rows = iter((logits[:, 1] - logits[:, 0]).tolist())
        return [[next(rows) for _ in chosen] for chosen in places]

    def identity(self, sequence: Sequence[int]) -> bytes:
        """The same token ids with other places have other numbers."""
        return super().identity(sequence) + array("i", self.places_of.get(_digest(sequence), ())).tobytes()


def add_solution_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of commands that score solutions, beside `scoring.add_model_arguments`."""
    parser.add_argument(
        "--reward_of",
        choices=REWARD_OF,
        default=None,
        help="What a model with verdicts judges: every step, or the whole solution. Default: as its config says.",
    )
    parser.add_argument(
        "--step_separator", default=None, help="Text behind every step of a token classifier; default: its config's."
    )


def output_file(output_dir: str, name: str, dataset: str) -> Path:
    """`name` in --output_dir, before anything is loaded. Raises UserError where it cannot be written, where it would
    overwrite --dataset, and where the next run would read it as a part of --dataset."""
    output = Path(output_dir, name)
    if output.parent.is_file():
        raise UserError(f"--output_dir {output_dir} is a file; give a directory")
    if output.is_dir():
        raise UserError(f"--output_dir {output_dir} has a folder {name}, where a file must be written; choose another")
    return check_output(str(output), dataset, "--output_dir")[0]


def load_solution_scorer(arguments: argparse.Namespace, state: PartialState) -> StepScorer:
    """The model of `add_model_arguments`, of any kind. Raises UserError where it cannot be loaded or has no head."""
    name, trusted = arguments.reward_name_or_path, arguments.trust_remote_code
    tokenizer, config = load_tokenizer_of(arguments), load_config(arguments)
    architecture, dtype = " ".join(config.architectures or ()), weights_type(arguments.dtype, state.device)
    form: StepForm | None = None
    reward_of = arguments.reward_of or getattr(config, "reward_of", None) or "steps"
    for kind, judges in (("TokenClassification", "steps"), ("SequenceClassification", "outcome")):
        if kind in architecture and (arguments.reward_of or judges) != judges:
            raise UserError(f"--reward_of {arguments.reward_of}: {name!r} is a model for {kind}, which judges {judges}")
    if "TokenClassification" in architecture:
        separator = arguments.step_separator or getattr(config, "step_separator", None) or "\n"
        form = tag_form(tokenizer, separator)
        model = load_step_tagger(name, trusted, dtype=dtype)
    elif "SequenceClassification" in architecture:
        reward_of = "outcome"
        model = load_reward_model(name, trusted, dtype=dtype)
    else:
        form = verdict_form(read_template(tokenizer, may_open_turn=True))  # nothing is read behind the last turn
        model = load_verdict_model(name, trusted, dtype=dtype)
    if getattr(model, "missing_head", False):
        raise UserError(f"{name!r} has no reward head (a language model without one?); train one first")
    return ready_scorer(model, tokenizer, form, reward_of, name, arguments.max_tokens_per_batch, state.device)


def ready_scorer(
    model: Any, tokenizer: Any, form: StepForm | None, reward_of: str, name: str, max_tokens: int, device: torch.device
) -> StepScorer:
    """A scorer of a loaded model, moved to `device` and put into evaluation mode."""
    if isinstance(form, TagForm):
        template, pad_token_id = plain_template(tokenizer)
    else:
        template = form.template if form else read_template(tokenizer)
        pad_token_id = ensure_pad_token(template)
    model.config.pad_token_id = pad_token_id
    reading = [reward_of, form.token_ids if isinstance(form, VerdictForm) else form and form.separator]
    return StepScorer(
        model=model.to(device).eval(),
        template=template,
        pad_token_id=pad_token_id,
        fingerprint=f"{model_fingerprint(name, model)} {reading}",
        max_tokens_per_batch=max_tokens,
        form=form,
        reward_of=reward_of,
        num_positions=getattr(model.config.get_text_config(), "max_position_embeddings", None),
    )


def plain_template(tokenizer: Any) -> tuple[Template, int]:
    """A tokenizer whose chat template is not used, and an id to pad with: behind all places, so any will do."""
    candidates = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return Template(tokenizer, (), (), ""), next(each for each in candidates if each is not None)


def score_solutions(scorer: StepScorer, problems: Sequence[Sequence[StepIds]], parts: Path) -> list[list[list[float]]]:
    """Probabilities (S, K) of the solutions of every problem, in order, on every process.

    Resumable: finished batches are kept beside `parts` until `remove_parts(parts)` (`resumable_scoring.py`).
    """
    groups = [register_solutions(scorer, solutions) for solutions in problems]
    filled = [place for place, group in enumerate(groups) if group]
    numbers = score_resumably(scorer, [groups[place] for place in filled], parts)
    found = dict(zip(filled, numbers, strict=True))
    return [_probabilities(scorer, solutions, found.get(i, [])) for i, solutions in enumerate(problems)]


def score_now(scorer: StepScorer, solutions: Sequence[StepIds]) -> list[list[float]]:
    """Probabilities (S, K) of a few solutions of one problem, in one batch, with nothing kept."""
    group = register_solutions(scorer, solutions)
    return _probabilities(scorer, solutions, score_batch(scorer, [group])[0]) if group else []


def register_solutions(scorer: StepScorer, solutions: Sequence[StepIds]) -> list[array]:
    """Note the places of all solutions; the same token ids may have been cut into steps in two ways."""
    for ids, places in solutions:
        key = _digest(ids)
        scorer.places_of[key] = tuple(sorted({*scorer.places_of.get(key, ()), *places}))
    return [solution.ids for solution in solutions]


def _probabilities(scorer: StepScorer, solutions: Sequence[StepIds], numbers: list[list[float]]) -> list[list[float]]:
    chosen = []
    for (ids, places), log_odds in zip(solutions, numbers, strict=True):
        at = dict(zip(scorer.places_of[_digest(ids)], log_odds, strict=True))
        chosen.append(sigmoid(np.array([at[place] for place in places], dtype=float)).tolist())
    return chosen


def _digest(ids: Sequence[int]) -> bytes:
    return hashlib.blake2b(array("i", ids).tobytes(), digest_size=16).digest()
