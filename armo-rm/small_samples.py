"""What is said of a number that too few held-out prompts stand behind."""

from collections.abc import Collection

FEWEST_PROMPTS = 5


def few_prompts_warnings(name: str, prompts: Collection[str]) -> list[str]:
    """One line where the held-out rows behind a number have fewer different `prompts`: its interval resamples these.

    >>> few_prompts_warnings("safety", ["a", "b", "a"])
    ['safety: 2 held-out prompts are behind it, so its interval means nothing; give more, or a larger --held_out_share']
    >>> few_prompts_warnings("safety", "abcde")
    []
    """
    number = len(set(prompts))
    if number >= FEWEST_PROMPTS:
        return []
    those = "1 held-out prompt is" if number == 1 else f"{number} held-out prompts are"
    return [f"{name}: {those} behind it, so its interval means nothing; give more, or a larger --held_out_share"]
