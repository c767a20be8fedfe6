"""All sources by name. A new one is a function, a `Source` in the table of its file, and nothing else."""

from useful_code.sources import (
    benchmarks,
    comparisons,
    gpt_judged,
    human_ratings,
    judged,
    ranked,
    rated,
    ready_pairs,
    step_evaluation,
    steps,
    transcripts,
)
from useful_code.sources.source import Source

PAIR_GROUPS = (transcripts, comparisons, ready_pairs, ranked, judged, gpt_judged, benchmarks)
GROUPS = (*PAIR_GROUPS, rated, human_ratings, steps, step_evaluation)
SOURCES: dict[str, Source] = {name: source for group in GROUPS for name, source in group.SOURCES.items()}
