"""Passages that were there before are found again, however they were cut, and ordinary texts have next to none."""

from __future__ import annotations

import inspect
import random
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from pytest_ftguard.tasks.text.evidence import Excerpts, Search, design_effect, origins
from pytest_ftguard.tasks.text.passages import Passages, Places, Row
from pytest_ftguard.tasks.text.words import folded, spans_of, words_of

BLOCK = 12


@dataclass
class Cut:
    """Documents in words, and cut into blocks of words; a plain text is one document."""

    texts: Sequence[str]
    block: int = BLOCK

    def __post_init__(self) -> None:
        self.row = words_of(self.texts)
        stops = np.flatnonzero(self.row.symbols < 0)
        cuts = [
            (start, min(start + self.block, stop), begin, stop)
            for begin, stop in zip([0, *(stops[:-1] + 1)], stops, strict=True)
            for start in range(begin, stop if len(stops) > 1 else stop - self.block + 1, self.block)
        ]
        self.passages = Passages.of_words(len(self.row.symbols), sum(len(text) for text in self.texts))
        spans = np.array(cuts)
        self.places = Places.of(spans[:, :2], spans[:, 2:], self.passages)

    def origins(self) -> np.ndarray:
        return origins(self.row, self.places, self.passages)

    def search(self) -> Search:
        labels: tuple[str, ...] = ()
        if len(self.texts) > 1:
            numbers = np.cumsum(self.row.symbols < 0)[self.places.spans[:, 0]]
            labels = tuple(f"document {number}" for number in numbers)
        return Search(Excerpts.of(self.row, self.places, self.passages, labels=labels))


def copies(text: str) -> float:
    """Share of the blocks that repeat earlier ones."""
    found = Cut([text]).origins()
    return float((found != np.arange(len(found))).mean())


def found_in(text: str | Sequence[str], *training: str, block: int = BLOCK) -> float:
    """Share of the blocks of a text, or of documents, that stand in the training texts."""
    search = Cut([text] if isinstance(text, str) else text, block).search()
    for one in training:
        search.see(words_of([one]))
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
    assert copies("tick tock " * 100) == pytest.approx(15 / 16)


def test_no_passage_crosses_documents() -> None:
    """The end of one document and the beginning of the next are no passage, in whichever order they come."""
    words = [f"{'abcdefghijklmnopqrst'[number]}ort{letter}" for number in range(20) for letter in "abcdefghij"]
    halves = [" ".join(words[start : start + 10]) for start in range(0, 200, 10)]
    assert (Cut([*halves, *(" ".join(halves[at : at + 2]) for at in range(1, 19, 2))]).origins() == np.arange(38)).all()
    twice = Cut([*halves, *halves[::-1]]).origins()
    assert twice.tolist() == [*range(20), *reversed(range(20))]


def test_equal_labels_are_copies() -> None:
    """Whatever their symbols are; a label that is new is none."""
    row, spans = Row.of_ids(np.arange(8)), np.array([[0, 2], [2, 4], [4, 6], [6, 8]])
    found = origins(row, Places(spans, spans, spans), Passages.of_tokens(8, 8), labels=["x", "y", "x", "z"])
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
    own, spans = np.arange(100, 100 + length), np.array([[0, length]])
    places = Places(spans, spans, spans)
    search = Search(Excerpts.of(Row.of_ids(own), places, Passages.of_tokens(64, 64), ids=[own], has_words=False))
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
    assert (Cut(filled_in(1, 40), block=999).origins() == np.arange(40)).all()


@pytest.mark.parametrize("block", [12, 50, 999])
def test_a_form_that_is_filled_in_is_not_trained_on(block: int) -> None:
    """Neither its documents, nor the blocks of the form alone, nor how a document ends; the same documents are."""
    ours, theirs = filled_in(1, 40), "\n".join(filled_in(2, 200))
    assert found_in("\n".join(ours), theirs, block=block) < 0.03
    assert found_in(ours, theirs, block=block) < 0.03
    search = Cut(ours, block).search()
    search.see(words_of([theirs, *ours]))
    found = search.is_found()
    blocks = len(found) // 40
    assert found[blocks - 1 :: blocks].mean() > 0.9


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
    assert found_in(ours, theirs, block=48) < 0.02
    assert found_in(ours, theirs, ours, block=48) == 1


def test_whole_rows_and_whole_documents_are_found() -> None:
    """They may be shorter than a passage; a row may have a token more at an end, a document other case and spaces."""
    texts = ["A cook sang.", "A judge slept.", "A painter left."]
    ids = [np.arange(start, start + 5) for start in (0, 10, 20)]
    cut = Cut(texts)
    search = Search(Excerpts.of(cut.row, cut.places, cut.passages, ids, tuple(map(folded, texts))))
    search.see_rows([np.append(ids[0], 1), np.arange(30, 40)], ["nothing", "something else"])
    assert search.is_found().tolist() == [True, False, False]
    search.see_documents([f"A heading\n{texts[2].upper()} \n"])
    assert search.is_found().tolist() == [True, False, True]


def test_parts_of_a_long_text_are_searched_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The size of a part changes neither what is a copy nor what is found."""
    text, training = "\n".join(sentences(1, 200)) * 2, "\n".join(sentences(1, 150))
    before = copies(text), found_in(text, training)
    monkeypatch.setattr("pytest_ftguard.tasks.text.evidence.PART", 1000)
    assert (copies(text), found_in(text, training)) == pytest.approx(before, abs=0.01)


def prose(seed: int) -> str:
    text = " ".join(sentences(seed, 4))
    return text.replace("for", "it's for").replace("coins", 'so-called "coins"')


PROSE = [prose(seed) for seed in range(1000, 1040)]
REFORMATTED: dict[str, Callable[[str], str]] = {
    "wrapped": lambda text: "\n".join(textwrap.wrap(text, 50)),
    "quoted": lambda text: "\n".join(f"> {line}" for line in textwrap.wrap(text, 60)),
    "indented": lambda text: "\n".join(f"        {line}  " for line in textwrap.wrap(text, 40)),
    "a sentence a line": lambda text: text.replace(". ", ".\n"),
    "bulleted": lambda text: f"- {text}",
    "numbered": lambda text: f"17. {text}",
    "capitals": str.upper,
    "quotes": lambda text: re.sub('"([^"]*)"', "\u201c\\1\u201d", text).replace("'", "\u2019"),
    "emphasis": lambda text: re.sub(r"\b(\w+ing)\b", r"**\1**", text),
    "entities": lambda text: text.replace('"', "&quot;").replace("'", "&#x27;"),
    "broken words": lambda text: text.replace("coins", "co-\n  ins"),
    "more points": lambda text: text.replace(".", " ..."),
    "a name in front": lambda text: f"user_37 said {text}",
    "a ticket in front": lambda text: f"Ticket 1234: {text}",
    "a word in the middle": lambda text: text.replace(". ", ". Secondly, ", 2).replace(". Secondly, ", ". ", 1),
}


@pytest.mark.parametrize("form", REFORMATTED)
def test_another_form_of_a_text_is_the_same_text(form: str) -> None:
    """As a plain text and as documents, trained on or repeated."""
    other = [REFORMATTED[form](text) for text in PROSE]
    theirs = "\n".join(sentences(2, 300))
    for block in (12, 45):
        assert found_in("\n".join(PROSE), theirs, "\n".join(other), block=block) > 0.9
        assert found_in(PROSE, theirs, "\n".join(other), block=block) > 0.9
        assert found_in(PROSE, theirs, block=block) < 0.03
        cut = Cut([*PROSE, *other], block)
        numbers = np.cumsum(cut.row.symbols < 0)[cut.places.spans[:, 0]]
        new = cut.origins() == np.arange(len(numbers))
        assert set(numbers[new]) >= set(range(40))
        assert len(set(numbers[new])) <= 44


def test_what_differs_in_more_than_a_few_words_is_new() -> None:
    """Three numbers of thirty words tell tickets apart, and so does a short message behind the same words."""
    ticket = "Ticket {}: the parcel of customer {} weighs {} pounds and stands in row {} of our hall; send it on."
    tickets = [ticket.format(number, 7 * number, 3 * number, 2 * number) for number in range(40)]
    assert (Cut(tickets).origins() == np.arange(len(Cut(tickets).places.spans)))[::2].all()
    assert found_in(tickets, "\n".join(ticket.format(*[number] * 4) for number in range(50, 500))) == 0


@pytest.mark.parametrize(
    "text",
    [
        "\u4e00\u4e8c\u4e09\u56db\u4e94\u516d\u4e03\u516b\u4e5d\u5341",
        "\u0e01\u0e02\u0e03\u0e04\u0e05\u0e06\u0e07\u0e08\u0e09\u0e0a",
        "acgtacctgg",
    ],
    ids=["Chinese", "Thai", "bases"],
)
def test_without_spaces_each_letter_is_a_word(text: str) -> None:
    """So passages are found wherever lines end."""
    rng = random.Random(1)
    ours, theirs = ("".join(rng.choice(text) for _ in range(2000)) for _ in range(2))
    wrapped = "\n".join(textwrap.wrap(ours, 70))
    assert len(words_of([ours]).symbols) == 2001
    assert found_in(ours, theirs, wrapped) == 1
    assert found_in(ours, theirs) == 0


def test_a_sequence_is_placed_among_the_words_of_its_document() -> None:
    """A word that is cut belongs to the sequence that it begins in; what a tokenizer loses moves nothing behind it."""
    assert spans_of("One two, three four.", ["One tw", "o, three", " four."]).tolist() == [[0, 2], [2, 3], [3, 4]]
    assert spans_of("One \u03b1\u03b2 two three four five", ["One  two", " three", " four five"])[1:].tolist() == [
        [3, 4],
        [4, 6],
    ]
