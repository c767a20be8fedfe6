"""Near-duplicates: the rule by hand and against brute force; nothing is dropped without a partner to name."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from useful_code.chat_pairs import is_tie
from useful_code.converting import near_duplicates
from useful_code.converting.near_duplicates import (
    NUM_PERMUTATIONS,
    RECALL,
    NgramSets,
    find_near_duplicates,
    jaccard,
    num_bands,
    signatures,
    similarity,
)
from useful_code.converting.word_ngrams import words_of


def pair(prompt: str, chosen: str, rejected: str) -> dict:
    question = {"role": "user", "content": prompt}
    sides = {"chosen": chosen, "rejected": rejected}
    return {side: [question, {"role": "assistant", "content": text}] for side, text in sides.items()}


def found_in(pairs: list[dict], folder, threshold: float = 0.8, alive=None, sizes=None):
    """The near-duplicates of the pairs, which are put into parts of these `sizes` first."""
    ngrams, lengths, bands = [], [], []
    starts = [0, *itertools.accumulate(sizes or [len(pairs)])]
    for number, (start, end) in enumerate(itertools.pairwise(starts)):
        arrays = signatures(pairs[start:end], threshold)
        bands.append(arrays["bands"])
        for name, paths in (("ngrams", ngrams), ("sizes", lengths)):
            paths.append(folder / f"part-{number}.{name}")
            arrays[name].tofile(paths[-1])
    all_bands = np.concatenate(bands)
    assert all_bands.shape == (len(pairs), num_bands(threshold)[0])
    alive = np.ones(len(pairs), bool) if alive is None else np.array(alive)
    return find_near_duplicates(all_bands.T, alive, NgramSets(ngrams, lengths), threshold, ties_of(pairs))


def ties_of(pairs: list[dict]) -> np.ndarray:
    return np.array([is_tie(each) for each in pairs], bool)


def rows_of(found) -> list[int]:
    return [each.row for each in found]


def text(start: int, number: int, changed: tuple[int, ...] = ()) -> str:
    """`number` different words; those at the places `changed` are others."""
    return " ".join(f"{'x' if place in changed else 'w'}{start + place}" for place in range(number))


def grams(words: str) -> set[tuple[str, ...]]:
    """The set that the arrays stand for, in plain Python."""
    split = words_of(words) or words.split()
    return {tuple(split[i : i + 5]) for i in range(max(1, len(split) - 4))}


def exact_similarity(first: dict, second: dict, threshold: float) -> tuple[float, bool]:
    """`similarity` over sets of words."""
    parts = [
        [grams(each["chosen"][0]["content"]), *(grams(each[side][1]["content"]) for side in ("chosen", "rejected"))]
        for each in (first, second)
    ]
    for exchanged, order in ((False, (0, 1, 2)), (True, (0, 2, 1))):
        others = [parts[1][place] for place in order]
        value = min(len(a & b) / len(a | b) for a, b in zip(parts[0], others, strict=True))
        if value >= threshold:
            return value, exchanged
    return 0.0, False


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (0.5, (42, 3)),  # 1 - (1 - 1/8)^42 = 0.996; 4 rows give 32 bands: 1 - (15/16)^32 = 0.873
        (0.8, (21, 6)),  # 1 - (1 - 0.262)^21 = 0.998; 7 rows give 18 bands: 1 - (1 - 0.210)^18 = 0.986
        (0.9, (12, 10)),  # 1 - (1 - 0.349)^12 = 0.994; 11 rows give 11 bands: 1 - (1 - 0.314)^11 = 0.984
        (1.0, (1, 128)),  # equal sets have equal signatures
    ],
)
def test_number_of_bands_by_hand(threshold, expected):
    assert num_bands(threshold) == expected


@given(st.floats(0.5, 1))
def test_bands_have_the_most_rows_that_reach_the_recall(threshold):
    bands, rows = num_bands(threshold)
    assert bands * rows <= NUM_PERMUTATIONS
    assert 1 - (1 - threshold**rows) ** bands >= RECALL
    for more in range(rows + 1, NUM_PERMUTATIONS + 1):
        assert 1 - (1 - threshold**more) ** (NUM_PERMUTATIONS // more) < RECALL


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [([1, 2, 3], [1, 2, 3], 1), ([1, 2, 3, 4], [3, 4, 5], 2 / 5), ([1], [2], 0), ([], [], 1), ([], [1], 0)],
)
def test_jaccard_by_hand(first, second, expected):
    assert jaccard(np.array(first, np.uint32), np.array(second, np.uint32)) == expected


@pytest.mark.parametrize(
    ("second", "threshold", "expected"),
    [
        (([1, 2, 3, 4], [5, 6], [7]), 0.8, (1.0, False)),
        (([1, 2, 3], [5, 6], [7]), 0.75, (0.75, False)),  # the least alike part counts: the prompt, 3 of 4
        (([1, 2, 3], [5, 6], [7]), 0.8, (0.0, False)),
        (([1, 2, 3, 4], [5], [7]), 0.5, (0.5, False)),  # the chosen answer, 1 of 2
        (([1, 2, 3, 4], [5, 6], [8]), 0.5, (0.0, False)),  # the rejected answer, none
        (([1, 2, 3, 4], [7], [5, 6]), 0.8, (1.0, True)),
        (([1, 2, 3, 4], [7], [5]), 0.5, (0.5, True)),
        (([9], [7], [5, 6]), 0.5, (0.0, False)),  # exchanged answers to another prompt
    ],
)
def test_similarity_by_hand(second, threshold, expected):
    first = ([1, 2, 3, 4], [5, 6], [7])
    sets = [[np.array(part, np.uint32) for part in row] for row in (first, second)]
    assert similarity(*sets, threshold) == expected


def test_planted_rows(tmp_path):
    """One word changed in a text of n words changes 5 of its n - 4 5-grams: Jaccard (n - 9) / (n + 1).

    At 49 words that is 40 / 50, just 0.8; at 48 words 39 / 49 = 0.796.
    """
    original = pair(text(0, 49), text(100, 49), text(200, 48))
    pairs = [
        original,
        pair(text(0, 49).upper(), text(100, 49) + "!", text(200, 48).replace(" ", ", ")),  # 1: punctuation and case
        pair(text(0, 49, (20,)), text(100, 49), text(200, 48)),  # 2: prompt, 40 / 50
        pair(text(0, 49), text(100, 49, (20,)), text(200, 48)),  # 3: chosen, 40 / 50
        pair(text(0, 49), text(100, 49), text(200, 48, (20,))),  # 4: rejected, 39 / 49
        pair(text(0, 49), text(300, 49), text(400, 48)),  # 5: other answers to the long prompt
        pair(text(0, 49), text(100, 49), text(400, 48)),  # 6: one other answer
        pair(text(500, 49), text(100, 49), text(200, 48)),  # 7: another prompt
    ]
    found = found_in(pairs, tmp_path)
    assert [tuple(each) for each in found] == [(1, 0, 1.0, False), (2, 0, 0.8, False), (3, 0, 0.8, False)]
    assert rows_of(found_in(pairs, tmp_path, 0.79)) == [1, 2, 3, 4]
    assert rows_of(found_in(pairs, tmp_path, 1.0)) == [1]


def test_exchanged_answers_take_both_rows(tmp_path):
    pairs = [pair(text(0, 60), text(100, 60), "No."), pair(text(0, 60), "no", text(100, 60, (30,)))]
    assert [tuple(each) for each in found_in(pairs, tmp_path)] == [
        (0, 1, pytest.approx(51 / 61), True),
        (1, 0, pytest.approx(51 / 61), True),
    ]


@pytest.mark.parametrize("order", itertools.permutations(range(4)))
def test_a_contradiction_takes_all_copies_in_any_order(order, tmp_path):
    """As with exact duplicates: whoever says it more often does not win."""
    rows = [pair("Which colour?", "Blue!", "red"), pair("which colour", "BLUE", "Red.")]
    rows += [pair("Which colour?", "red", "blue"), pair("Which shape?", "red", "blue")]
    found = found_in([rows[place] for place in order], tmp_path)
    assert sorted(order[row] for row in rows_of(found)) == [0, 1, 2]


def test_a_tie_is_like_ties_only(tmp_path):
    """Whichever way round; a tie and a preference about the same answers are no duplicates, as with exact ones."""
    tie = {"tie": True}
    pairs = [pair("Q?", "yes", "no") | tie, pair("q", "No.", "Yes!") | tie, pair("Q", "yes", "no")]
    pairs += [pair("Q", "YES", "no") | {"label": 0.5}, pair("Q", "yes", "no") | {"label": 0.5, "tie": False}]
    found = found_in(pairs, tmp_path)
    assert [(each.row, each.of, each.contradicts) for each in found] == [(1, 0, False), (3, 0, False), (4, 2, False)]


def test_a_tie_whose_edit_turns_its_order_is_no_contradiction(tmp_path):
    """The answers of a tie are sorted; "m" in the one and "z" in the other put them the other way round."""
    long = [text(100, 60), text(200, 60)]
    pairs = [pair("Q", f"{first} {long[0]}", f"n {long[1]}") | {"tie": True} for first in ("m", "z")]
    assert [tuple(each) for each in found_in(pairs, tmp_path)] == [(1, 0, pytest.approx(56 / 58), False)]


def test_crowded_buckets_miss_nothing(tmp_path):
    """A prompt of 3,000 words hides the answers in the signature: its 80 pairs share their buckets, and so does a copy
    of the last one."""
    pairs = [pair(text(0, 3000), text(10_000 + 20 * n, 10), text(50_000 + 20 * n, 10)) for n in range(80)]
    pairs += [pair(text(0, 3000), text(10_000 + 20 * 79, 10).upper(), text(50_000 + 20 * 79, 10) + "!")]
    pairs += [pair(text(0, 3000), text(50_000 + 20 * 78, 10), text(10_000 + 20 * 78, 10) + "!")]
    found = found_in(pairs, tmp_path)
    assert [(each.row, each.of, each.contradicts) for each in found] == [
        (78, 81, True),
        (80, 79, False),
        (81, 78, True),
    ]


def test_short_answers_that_differ_in_a_word_stay(tmp_path):
    """A text of fewer than five words is one n-gram: alike only if the same."""
    pairs = [pair("2 + 2?", "It is four", "five"), pair("2 + 2?", "It is Four.", "six")]
    pairs += [pair("2 + 2?", "It was four", "five"), pair("2 + 2?", "👍", "👎"), pair("2 + 2?", "👍", "👎👎")]
    assert found_in(pairs, tmp_path) == []


def test_chains(tmp_path):
    """A ~ B ~ C ~ D, each one word further from A, of 60 words: 46/56 with one word changed, 41/61 with two.

    B goes for A. C is unlike A, and B is gone, so it stays; D goes for C.
    """
    pairs = [pair(text(0, 60, changed), "yes", "no") for changed in ((), (10,), (10, 30), (10, 30, 50))]
    assert [(each.row, each.of) for each in found_in(pairs, tmp_path)] == [(1, 0), (3, 2)]


@pytest.mark.parametrize(
    ("alive", "expected"), [([1, 1, 1], [1, 2]), ([0, 1, 1], [2]), ([1, 0, 1], [2]), ([0, 0, 1], []), ([0, 0, 0], [])]
)
def test_rows_that_are_out_already_are_no_partners(alive, expected, tmp_path):
    pairs = [pair("Q", "yes", "no")] * 3
    assert rows_of(found_in(pairs, tmp_path, alive=np.array(alive, bool))) == expected


PIECES = st.lists(st.sampled_from("abc"), min_size=1, max_size=9).map(" ".join)
PAIRS = st.lists(st.builds(pair, PIECES, PIECES, PIECES), max_size=25)


@settings(max_examples=150)
@given(st.data(), PAIRS, st.sampled_from([0.5, 0.6, 0.8, 1.0]))
def test_every_dropped_row_has_its_partner(tmp_path_factory, data, pairs, threshold):
    """Over small random texts, against sets in plain Python; and the same if every bucket counts as crowded."""
    alive = data.draw(st.lists(st.booleans(), min_size=len(pairs), max_size=len(pairs)))
    found = found_in(pairs, tmp_path_factory.mktemp("sets"), threshold, np.array(alive, bool))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_duplicates, "CROWDED", 1)
        assert found_in(pairs, tmp_path_factory.mktemp("sets"), threshold, np.array(alive, bool)) == found
    rows = rows_of(found)
    assert rows == sorted(set(rows))
    contradicted = {each.row for each in found if each.contradicts}
    for each in found:
        assert alive[each.row] and alive[each.of]
        value, exchanged = exact_similarity(pairs[each.of], pairs[each.row], threshold)
        assert value == each.similarity >= threshold
        if each.contradicts:
            assert each.of in contradicted
        else:  # the earlier row stays, unless a later one contradicts it
            assert not exchanged and each.of < each.row
            assert each.of not in rows or each.of in contradicted
    opposed = {each.of for each in found if exact_similarity(pairs[each.of], pairs[each.row], threshold)[1]}
    for each in found:  # somebody said the opposite of this row, or of the row that it is like
        assert not each.contradicts or each.of in opposed or each.row in opposed
    staying = [row for row in range(len(pairs)) if alive[row] and row not in rows]
    for first, second in itertools.combinations(staying, 2):  # equal sets share all bands: found without luck
        assert exact_similarity(pairs[first], pairs[second], 1.0)[0] < 1


@settings(max_examples=150)
@given(st.lists(st.builds(pair, PIECES, st.just("yes"), st.just("no")), max_size=25), st.sampled_from([0.5, 0.6, 0.8]))
def test_where_all_rows_are_candidates_the_rule_is_the_greedy_one(tmp_path_factory, pairs, threshold):
    """All rows in one bucket: a row goes if, and only if, an earlier row that stays is like it."""
    folder = tmp_path_factory.mktemp("sets")
    arrays = signatures(pairs, threshold)
    for name in ("ngrams", "sizes"):
        arrays[name].tofile(folder / name)
    sets = NgramSets([folder / "ngrams"], [folder / "sizes"])
    bands, alive = [np.zeros(len(pairs), np.uint64)], np.ones(len(pairs), bool)
    found = find_near_duplicates(bands, alive, sets, threshold, ties_of(pairs))
    staying: list[int] = []
    for row, each in enumerate(pairs):
        if not any(exact_similarity(pairs[other], each, threshold)[0] for other in staying):
            staying.append(row)
    assert rows_of(found) == [row for row in range(len(pairs)) if row not in staying]


def test_recall_well_above_the_threshold(tmp_path):
    """Texts of 100 words, each with one word changed: (100 - 9) / (100 + 1) = 0.90, where 0.8 is the threshold."""
    rng = random.Random(0)
    originals, copies = [], []
    for _ in range(400):
        texts = [[f"v{rng.randrange(3000)}" for _ in range(100)] for _ in range(3)]
        originals.append(pair(*map(" ".join, texts)))
        for words in texts:
            words[rng.randrange(4, 96)] = "other"
        copies.append(pair(*map(" ".join, texts)))
    found = found_in(originals + copies, tmp_path)
    assert all(each.row == each.of + 400 and each.similarity >= 0.88 for each in found)
    assert len(found) >= 0.99 * 400


@settings(max_examples=60)
@given(PAIRS, st.lists(st.integers(0, 8), max_size=8))
def test_several_parts_are_as_good_as_one(tmp_path_factory, pairs, sizes):
    """Also if parts are empty or hold one row."""
    sizes = [size for size, end in zip(sizes, itertools.accumulate(sizes), strict=True) if end <= len(pairs)]
    sizes.append(len(pairs) - sum(sizes))
    folder = tmp_path_factory.mktemp("sets")
    assert found_in(pairs, folder, 0.6, sizes=[*sizes, 0]) == found_in(pairs, folder, 0.6)


def test_the_signature_of_a_pair_does_not_depend_on_its_batch():
    pairs = [pair(text(0, number), text(50, number + 3), "no") for number in range(1, 9)]
    at_once = signatures(pairs, 0.8)
    one_by_one = [signatures([each], 0.8) for each in pairs]
    for name, values in at_once.items():
        np.testing.assert_array_equal(values, np.concatenate([each[name] for each in one_by_one]))


def test_no_row_at_all(tmp_path):
    arrays = signatures([], 0.8)
    assert {name: values.shape for name, values in arrays.items()} == {
        "bands": (0, 21),
        "ngrams": (0,),
        "sizes": (0, 3),
    }
    assert found_in([], tmp_path) == []
    assert found_in([], tmp_path, sizes=[0, 0]) == []


def test_a_word_counts_for_the_prompt_or_for_an_answer_not_for_both(tmp_path):
    """The bands of a pair whose prompt is the answer of another have nothing to share."""
    bands = signatures([pair(text(0, 60), "yes", "no"), pair("yes", text(0, 60), "no")], 0.8)["bands"]
    assert not (bands[0] == bands[1]).any()
