"""Word n-grams: the same as slices of a list of words, for every text, alone or among others."""

import json
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from useful_code.converting import word_ngrams
from useful_code.converting.word_ngrams import ngram_hashes, words_of

ROOT = Path(__file__).parents[1]
# Few words, so that n-grams repeat; spellings and punctuation that must not matter; texts without any word.
PIECES = ("a", "b", "c", "A", "a b", "ba", "aa", "!", "??", "_", "é", "É", "e\u0301", "東京", "東", "ｱ", "1.5", "\n")
TEXTS = st.lists(st.lists(st.sampled_from(PIECES), max_size=12).map(" ".join), max_size=12)


def expected_ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """What `ngram_hashes` stands for, in plain Python."""
    words = words_of(text) or text.split()
    return [tuple(words[i : i + n]) for i in range(max(len(words) - n + 1, min(1, len(words))))]


def hashes_of_each(texts: list[str], n: int) -> list[list[int]]:
    hashes, offsets = ngram_hashes(texts, n)
    assert len(offsets) == len(texts) + 1 and offsets[0] == 0 and offsets[-1] == len(hashes)
    assert hashes.dtype == np.uint64
    return [hashes[start:end].tolist() for start, end in zip(offsets, offsets[1:], strict=False)]


@settings(max_examples=400)
@given(TEXTS, st.integers(1, 8))
def test_equal_hashes_are_equal_ngrams(texts, n):
    """One to one: as many hashes as n-grams, each n-gram has one hash, and no two n-grams share it."""
    hash_of: dict[tuple[str, ...], int] = {}
    for text, hashes in zip(texts, hashes_of_each(texts, n), strict=True):
        for ngram, hashed in zip(expected_ngrams(text, n), hashes, strict=True):
            assert hash_of.setdefault(ngram, hashed) == hashed
    assert len(set(hash_of.values())) == len(hash_of)


def test_no_two_ngrams_of_a_small_vocabulary_share_a_hash():
    """All 3-grams over 40 words: 64,000 different hashes, and as many different upper halves but for chance.

    Near-duplicates compare the upper 32 bits; of 64,000 random ones 0.5 pairs are expected to be equal by chance.
    """
    words = [f"w{i}" for i in range(40)]
    texts = [f"{a} {b} {c}" for a in words for b in words for c in words]
    hashes, _ = ngram_hashes(texts, 3)
    assert len(np.unique(hashes)) == len(texts)
    assert len(np.unique(hashes >> np.uint64(32))) > len(texts) - 10


@settings(max_examples=200)
@given(TEXTS, st.integers(1, 8), st.integers(0, 12))
def test_texts_do_not_influence_each_other(texts, n, cut):
    """All at once, in two batches, or each by itself: the same hashes."""
    at_once = hashes_of_each(texts, n)
    assert hashes_of_each(texts[:cut], n) + hashes_of_each(texts[cut:], n) == at_once
    assert [hashes_of_each([text], n)[0] for text in texts] == at_once


def test_the_hashes_are_the_same_in_every_process():
    """Several processes make the parts of a mixture, and another run goes on with them."""
    code = "from useful_code.converting.word_ngrams import *; print(ngram_hashes(['Stand still, 東京'], 2)[0].tolist())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == hashes_of_each(["Stand still, 東京"], 2)[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't STOP, e-mail me_now", ["don", "t", "stop", "e", "mail", "me", "now"]),
        ("x1=3.14\ty2", ["x1", "3", "14", "y2"]),
        ("Straße ﬁne №5", ["strasse", "fine", "no5"]),  # folded, and compatible forms taken apart
        ("CAFÉ cafe\u0301", ["café", "café"]),
        ("我爱你 hello", ["我", "爱", "你", "hello"]),  # no spaces: every character is a word
        ("カタカナｶﾀ", ["カ", "タ", "カ", "ナ", "カ", "タ"]),
        ("abc東def", ["abc", "東", "def"]),
        ("안녕", ["안", "녕"]),
        ("Привет, мир", ["привет", "мир"]),
        ("!!! _ 👍", []),
        ("", []),
    ],
)
def test_words_by_hand(text, words):
    assert words_of(text) == words


@settings(max_examples=500)
@given(st.text(st.characters(max_codepoint=127), max_size=40))
def test_the_fast_path_for_ascii_finds_the_same_words(text):
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    assert words_of(text) == word_ngrams._WORD.findall(folded) == re.findall("[a-z0-9]+", text.lower())


@settings(max_examples=300)
@given(st.text(max_size=30))
def test_words_have_no_case_and_are_in_their_final_form(text):
    """Words are found again in their own list: folding twice changes nothing."""
    words = words_of(text)
    assert words_of(" ".join(words)) == words
    assert words_of(text.upper().lower()) == words_of(text.upper())


@pytest.mark.parametrize(
    ("first", "second", "equal"),
    [
        ("!!!", "???", False),
        ("!!!", " !!!\n", True),
        ("👍", "👎", False),
        ("! ?", "? !", False),
        ("a", "a!", True),
        ("a b", "b a", False),
        ("a b c", "a b", False),  # shorter than n words: the whole text is one n-gram
        ("ab", "a b", False),
        ("東京", "東 京", True),
    ],
)
def test_texts_shorter_than_an_ngram(first, second, equal):
    one, two = hashes_of_each([first, second], 5)
    assert len(one) == len(two) == 1
    assert (one == two) == equal


def test_offsets_by_hand():
    """Words: 0, 1, 2, 3, 5, none but two signs; n = 3: a text of fewer words gives one, of w words w - 2."""
    texts = ["", "a", "a b", "a b c", "a b c d e", "? !", " \n"]
    _, offsets = ngram_hashes(texts, 3)
    assert offsets.tolist() == [0, 0, 1, 2, 3, 6, 7, 7]


@pytest.mark.parametrize("texts", [[], [""], ["", " "]])
def test_nothing_gives_nothing(texts):
    hashes, offsets = ngram_hashes(texts, 5)
    assert len(hashes) == 0 and offsets.tolist() == [0] * (len(texts) + 1)
