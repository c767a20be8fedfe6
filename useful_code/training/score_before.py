"""What the untrained model says of the held-out rows, so that a report can show before and after."""

from typing import Any

from transformers import Trainer, TrainerCallback


class ScoreBefore(TrainerCallback):
    """Add to `trainer`; after training, `predictions` are those of the held-out rows before the first step, or None.

    They are taken when training begins and has wrapped the model: `predict` before `train` would prepare the model for
    evaluation, and accelerate would then leave it unwrapped, so that the processes of DDP train apart. A resumed run
    has no untrained model to ask.
    """

    def __init__(self, trainer: Trainer, rows: list[dict], enabled: bool = True):
        self.trainer = trainer
        self.rows: Any = rows  # a list is a data set
        self.enabled = enabled
        self.predictions: Any = None
        trainer.add_callback(self)

    def on_train_begin(self, args, state, control, **kwargs):
        if self.enabled and state.global_step == 0:
            self.predictions = self.trainer.predict(self.rows).predictions
