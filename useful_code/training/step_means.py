"""Means of what happened since the last line of the log, over all values on all processes."""

import torch


class StepMeans:
    """Collects values batch by batch without waiting for the device.

    >>> means = StepMeans()
    >>> means.add(accuracy=torch.tensor([1.0, 0.0]))
    >>> means.add(accuracy=torch.tensor([1.0, 1.0]))
    >>> means.pop()
    {'accuracy': 0.75}
    """

    def __init__(self) -> None:
        self.totals: dict[str, torch.Tensor] = {}

    def add(self, **values: torch.Tensor) -> None:
        """Add the values (B,) of one batch, each under its name; there may be none."""
        for name, tensor in values.items():
            total = torch.stack(
                (tensor.detach().float().sum(), torch.tensor(float(tensor.numel()), device=tensor.device))
            )
            self.totals[name] = self.totals[name] + total if name in self.totals else total

    def pop(self, accelerator=None) -> dict[str, float]:
        """The means by name, of those with a value; starts anew. With an accelerator all processes call it together."""
        totals, self.totals = self.totals, {}
        if accelerator is not None:
            totals = {name: accelerator.reduce(total, "sum") for name, total in totals.items()}
        return {name: (total[0] / total[1]).item() for name, total in totals.items() if total[1] > 0}
