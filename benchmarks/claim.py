"""What a claim is, for the frame (`claims.py`) and for each method's own file (`claims_<method>.py`)."""

from typing import NamedTuple

Numbers = dict[str, float]  # what one seed gives


class Claim(NamedTuple):
    """`number` must lie above (">=") or below ("<=") `bound`."""

    text: str
    number: str
    side: str
    bound: float
