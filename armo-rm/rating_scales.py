"""Ratings of any scale as numbers in [0, 1], and back. METHODS: arXiv 2406.12845 and the scales of its data.

bin_centre   p = (r - lowest + 1/2) / (highest - lowest + 1)     HelpSteer's (r + 1/2) / 5: 0.1, 0.3, ..., 0.9
min_max      p = (r - lowest) / (highest - lowest)
"""

RULES = ("bin_centre", "min_max")


def to_unit(rating: float, scale: tuple[float, float], rule: str) -> float:
    """A rating as a number in [0, 1].

    >>> [to_unit(rating, (0, 4), "bin_centre") for rating in (0, 4)], to_unit(3, (1, 5), "min_max")
    ([0.1, 0.9], 0.5)
    """
    offset, width = _line(scale, rule)
    return (rating - scale[0] + offset) / width


def to_rating(unit: float, scale: tuple[float, float], rule: str) -> float:
    """The other way; a prediction may lie outside the scale.

    >>> to_rating(0.9, (0, 4), "bin_centre")
    4.0
    """
    offset, width = _line(scale, rule)
    return unit * width + scale[0] - offset


def width_of(scale: tuple[float, float], rule: str) -> float:
    """Units of the scale that are 1 in [0, 1]: turns a difference of predictions into one of ratings.

    >>> width_of((0, 4), "bin_centre")
    5
    """
    return _line(scale, rule)[1]


def _line(scale: tuple[float, float], rule: str) -> tuple[float, float]:
    lowest, highest = scale
    return (0.5, highest - lowest + 1) if rule == "bin_centre" else (0.0, highest - lowest)
