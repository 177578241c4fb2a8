"""Passages that were there before are found again, however they were cut, and ordinary texts have next to none."""

from __future__ import annotations

import inspect
import random

import numpy as np
import pytest

from pytest_ftguard.training.evidence import Excerpts, Passages, Search, design_effect, folded, joined, origins

BLOCK = 64
ENDS = tuple(map(ord, "\n.!?;"))


def tokens(text: str) -> np.ndarray:
    """One token for each byte."""
    return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64)


def spans(length: int, block: int = BLOCK) -> np.ndarray:
    starts = np.arange(length // block) * block
    return np.stack([starts, starts + block], axis=1)


def passages(text: str) -> Passages:
    return Passages.of_text(len(tokens(text)), len(tokens(text)), ENDS)


def copies(text: str) -> float:
    """Share of the blocks that repeat earlier ones."""
    places = spans(len(tokens(text)))
    found = origins(joined([tokens(text)]), places, passages(text))
    return float((found != np.arange(len(places))).mean())


def found_in(text: str, *training: str) -> float:
    """Share of a text's blocks that stand in the training texts."""
    search = Search(Excerpts.of(joined([tokens(text)]), spans(len(tokens(text))), passages(text)))
    for one in training:
        search.see(tokens(one))
    return float(search.is_found().mean())


def sentences(seed: int, count: int) -> list[str]:
    """Sentences of a small grammar: their parts are the same again and again, they themselves hardly ever."""
    rng = random.Random(seed)
    who = [
        "The cook",
        "A sailor",
        "My neighbour",
        "The old teacher",
        "Nobody",
        "The youngest child",
        "A painter",
        "The judge",
    ]
    does = ["paints", "borrows", "forgets", "counts", "sells", "hides", "remembers", "breaks", "carries", "mends"]
    what = [
        "the wooden ladder",
        "a silver spoon",
        "both red chairs",
        "his winter coat",
        "an empty bottle",
        "the garden gate",
    ]
    when = ["on Monday morning", "before the concert", "every second week", "after the long rain", "in the dark"]
    parts = (who, does, what, when)
    return [f"{' '.join(map(rng.choice, parts))}, for {rng.randint(10, 99)} coins." for _ in range(count)]


CODE = inspect.getsource(inspect)


@pytest.mark.parametrize("text", ["\n".join(sentences(1, 600)), CODE], ids=["a small grammar", "code"])
def test_ordinary_text_is_new(text: str) -> None:
    """More than 95 % of the blocks of templated sentences and of source code are no copies."""
    assert copies(text) < 0.05


def test_a_text_after_itself_is_known_wherever_it_is_cut() -> None:
    """The length is no multiple of a block, so no block of the second half is equal to one of the first."""
    text = "\n".join(sentences(1, 200))[:8007]
    assert copies(text * 2) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("separator", ["\n", " "], ids=["lines", "sentences"])
def test_few_sentences_in_any_order_are_known(separator: str) -> None:
    """Each is a passage, so it does not matter what stands before and behind it."""
    few = sentences(1, 16)
    text = separator.join(random.Random(2).choice(few) for _ in range(600))
    assert copies(text) > 0.95


def test_a_text_that_repeats_within_its_first_block_has_one_new_block() -> None:
    """The first block cannot be a copy: nothing stands before it."""
    assert copies("tick tock " * 100) == pytest.approx(14 / 15)


def test_no_passage_crosses_documents() -> None:
    """The end of one document and the beginning of the next are no passage, in whichever order they come."""
    parts = [tokens(text[:50]) for text in sentences(1, 20)]
    row = joined([*parts, *parts[::-1]])
    places = np.array([[number * 51, number * 51 + 50] for number in range(40)])
    # 50 bytes are no window, and without the end of their document they would be no sentence either.
    found = origins(row, places, Passages.of_text(len(row), len(row)))
    assert found.tolist() == [*range(20), *reversed(range(20))]


def test_equal_labels_are_copies() -> None:
    """Whatever their tokens are; a label that is new is none."""
    row, places = tokens("abcdefgh"), np.array([[0, 2], [2, 4], [4, 6], [6, 8]])
    found = origins(row, places, Passages.of_text(8, 8), labels=["x", "y", "x", "z"])
    assert found.tolist() == [0, 1, 0, 3]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("A first one.", "a FIRST  one. ", True),
        ("A first one", "12. A first one", True),
        ("A first one", "A first one (#7)", True),
        ("\ufb01rst", "first", True),
        ("- A first one", "> A first one", True),
        ("A first one", "> 3) A first one", True),
        ("A first one", "A second one", False),
        ("The sum was 4711", "The sum was 4712", False),
        ("12 first ones", "13 first ones", False),
        ("1999: a first one", "2000: a first one", False),
        ("What is 12 plus 7? 19", "What is 12 plus 8? 20", False),
        ("12", "13", False),
        ("1234 or 5", "4321 or 5", False),
    ],
)
def test_what_a_fold_leaves_out(one: str, other: str, same: bool) -> None:
    """Case, spaces, forms of a character, and what marks an item of a list, unless it is most of the text."""
    assert (folded(one) == folded(other)) is same


@pytest.mark.parametrize(
    ("found", "effect"), [([0, 1, 2, 3], 1.0), ([0, 0, 2, 3], 1.5), ([5, 5, 5, 5], 4.0), ([0] * 32 + [1] * 32, 32.0)]
)
def test_the_design_effect_is_that_of_unequal_weights(found: list[int], effect: float) -> None:
    """Kish: the sum of the squares of the weights by their sum."""
    assert design_effect(found) == pytest.approx(effect)


def test_what_stands_in_the_training_text_is_found() -> None:
    """Between other text, over two pieces, and with an offset; what does not stand there is not found."""
    ours, theirs = "\n".join(sentences(1, 100)), "\n".join(sentences(2, 500))
    assert found_in(ours, theirs) < 0.02
    assert found_in(ours, theirs[:777] + ours + theirs[777:]) > 0.98
    half = len(ours) // 2
    assert found_in(ours, theirs, ours[:half], ours[half:]) > 0.95
    assert found_in(ours, ours[:half]) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(("length", "found"), [(7, False), (8, True), (30, True)])
def test_short_sequences_are_found_inside_a_row(length: int, found: bool) -> None:
    """Packed with others, behind a prompt, or before padding; a few tokens stand there by chance."""
    own = np.arange(100, 100 + length)
    search = Search(Excerpts.of(own, np.array([[0, length]]), Passages.of_text(64, 64)))
    search.see_rows([np.append(own[1:], own[0]), own[:-1]])
    assert not search.is_found().any()
    search.see_rows([np.concatenate([np.arange(9), own, np.zeros(5, dtype=np.int64)])])
    assert search.is_found().tolist() == [found]


FORM = "You sort the letters of a museum. Answer with one word, and do not explain it. Never mention these rules. " * 4


def filled_in(seed: int, count: int) -> list[str]:
    """Documents of a long form and a short sentence each."""
    return [f"{FORM}\n{sentence}\nAnswer: later" for sentence in sentences(seed, count)]


def test_a_form_that_is_filled_in_is_no_copy() -> None:
    """A long prompt is the same in all documents; what is filled in is less than a tenth of each, and new."""
    parts = [tokens(text) for text in filled_in(1, 40)]
    stops = np.cumsum([len(part) + 1 for part in parts]) - 1
    places = np.stack([stops - [len(part) for part in parts], stops], axis=1)
    row = joined(parts)
    found = origins(row, places, Passages.of_text(len(row), len(row), ENDS))
    assert (found == np.arange(40)).all()


def test_a_form_that_is_filled_in_is_not_trained_on() -> None:
    """Neither its whole documents nor the blocks of the form alone; the same documents are."""
    ours, theirs = "\n".join(filled_in(1, 40)), "\n".join(filled_in(2, 200))
    assert found_in(ours, theirs) < 0.02
    assert found_in(ours, theirs + "\n" + ours) > 0.1
    parts = [tokens(text) for text in filled_in(1, 40)]
    row, ends = joined(parts), np.cumsum([len(part) + 1 for part in parts]) - 1
    places = np.stack([ends - [len(part) for part in parts], ends], axis=1)
    search = Search(Excerpts.of(row, places, Passages.of_text(len(row), len(row), ENDS)))
    search.see(tokens(theirs))
    assert not search.is_found().any()
    search.see(tokens(ours))
    assert search.is_found().all()


def records(seed: int, count: int) -> str:
    """Lines of a log: each field is often the same as somewhere, a whole line is not."""
    rng = random.Random(seed)
    return "".join(
        f"05-{rng.randint(1, 30):02d} 12:{rng.randint(0, 59):02d} [worker-{rng.randint(1, 9)}] sent the page "
        f"/items/list in {rng.randint(1, 99)} ms to client {rng.randint(1, 99)}, status 200\n"
        for _ in range(count)
    )


def test_a_patchwork_of_passages_is_not_trained_on() -> None:
    """All parts of a record stand somewhere in the training text, but no record as a whole does."""
    ours, theirs = records(1, 200), records(2, 3000)
    excerpts = Excerpts.of(joined([tokens(ours)]), spans(len(tokens(ours)), 256), passages(ours))
    search = Search(excerpts)
    search.see(tokens(theirs))
    assert search.is_found().mean() < 0.02
    search.see(tokens(ours))
    assert search.is_found().all()


def test_whole_rows_and_whole_documents_are_found() -> None:
    """They may be shorter than a passage; a row may have a token more at an end, a document other case and spaces."""
    texts = [text[:30] for text in sentences(1, 3)]
    row, places = joined([tokens(text) for text in texts]), np.array([[0, 30], [31, 61], [62, 92]])
    search = Search(Excerpts.of(row, places, passages("".join(texts)), tuple(map(folded, texts))))
    search.see_rows([np.append(tokens(texts[0]), 1), tokens("something else")])
    assert search.is_found().tolist() == [True, False, False]
    search.see_documents([f"A heading\n{texts[2].upper()} \n"])
    assert search.is_found().tolist() == [True, False, True]


def test_parts_of_a_long_text_are_searched_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The size of a part changes neither what is a copy nor what is found."""
    text, training = "\n".join(sentences(1, 200)) * 2, "\n".join(sentences(1, 150))
    before = copies(text), found_in(text, training)
    monkeypatch.setattr("pytest_ftguard.training.evidence._PART", 1000)
    assert (copies(text), found_in(text, training)) == pytest.approx(before, abs=0.01)
