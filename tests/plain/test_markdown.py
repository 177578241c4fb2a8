"""The summary as Markdown: any name is literal text, it stays within GitHub's bound, and verdicts come first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cmarkgfm
import pytest
from cmarkgfm.cmark import Options
from hypothesis import given
from hypothesis import strategies as st

from pytest_ftguard.gates.limits import NATS_PER_TOKEN, SHARE, Limit
from pytest_ftguard.gates.setting import Origin
from pytest_ftguard.gates.verdict import RecordedVerdict, Status, Verdict
from pytest_ftguard.reporting.assembly import Remarks, plan_summary, run_summary
from pytest_ftguard.reporting.escaping import as_code, as_text
from pytest_ftguard.reporting.github import append_summary
from pytest_ftguard.reporting.markdown import MOST_BYTES, render
from pytest_ftguard.reporting.summary import Summary
from pytest_ftguard.reporting.visible import visible
from pytest_ftguard.results import Measured, Trial, TrialError
from pytest_ftguard.specs import LoRA
from tests.plain.builders import FULL, LORA, WORKLOAD, trial

ONE_MIB = 2**20
NLL = [20.0 + 0.01 * i for i in range(64)]
OURS = {"h2", "h3", "p", "strong", "code", "ul", "li", "br", "table", "thead", "tbody", "tr", "th", "td"}
NAMES = [
    "test_it[a|b]",
    "test_it[<script>alert(1)</script>]",
    "test_it[%0A]",
    "::error file=a.py::no",
    "test_it[\N{ROCKET}\N{FAMILY}]",
    "test_it[" + "x" * 492,
    "test_it[\x1b[31m\x00\r\n\u202e]",
    "`code` ``more`` `",
    "*a* _b_ ~~c~~ \\| \\\\| [d](e) ![f](g) <!-- h --> &lt;",
    "@user #12 GH-12 user/repo@abcdef1234567 https://a.example www.a.example a@b.example :tada: $x$",
]
MARKS = [
    "|",
    "\\",
    "`",
    "``",
    "\n",
    "\x1b",
    "<script>",
    "&lt;",
    "%0A",
    "::error",
    "@user",
    "#1",
    "www.a.bc",
    "://",
    "1. ",
]
TEXTS = st.lists(st.one_of(st.sampled_from(MARKS), st.text(max_size=8)), min_size=1, max_size=8).map("".join)


class _Page(HTMLParser):
    """Keeps the tags of a page, and the text of each cell and of each item of a list."""

    def __init__(self, markdown: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.texts: list[str] = []
        self._is_inside = False
        # GitHub lets HTML through as well, and cleans it: nothing of it may come from a name.
        self.feed(cmarkgfm.github_flavored_markdown_to_html(markdown, Options.CMARK_OPT_UNSAFE))
        self.texts = [" ".join(text.split()) for text in self.texts]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag in ("td", "li", "h3"):
            self.texts.append("")
            self._is_inside = True

    def handle_endtag(self, tag: str) -> None:
        self._is_inside &= tag not in ("td", "li", "h3")

    def handle_data(self, data: str) -> None:
        if self._is_inside:
            self.texts[-1] += data


def seen(text: str) -> str:
    """What people see of a text: blanks side by side are one."""
    return " ".join(visible(text).split())


def verdict(status: Status = "PASS", **changes: object) -> Verdict:
    values = {
        "gate": "loss_gap",
        "status": status,
        "candidate": "lora r=16",
        "baseline": "full",
        "value": 0.019,
        "interval": (0.012, 0.026),
        "limit": Limit(0.02, NATS_PER_TOKEN, Origin("ini", "ftguard_max_loss_gap in pytest.ini")),
        "details": ("This is why.",),
    }
    return Verdict(**{**values, **changes})  # type: ignore[arg-type]


def recorded(statuses: Sequence[Status], name: str = "test_{}") -> list[RecordedVerdict]:
    return [RecordedVerdict(f"t.py::{name.format(i)}", verdict(status)) for i, status in enumerate(statuses)]


def rows(markdown: str) -> Iterator[tuple[str, str]]:
    """The status and the test of each row of the table of gates."""
    for line in markdown.splitlines():
        if line.startswith("| loss gap"):
            cells = line.split(" | ")
            yield cells[4].strip("*"), cells[5].strip("` |")


@given(TEXTS)
def test_any_text_is_shown_letter_by_letter(text: str) -> None:
    """In a cell and in a list, as text and as code: no tag, no link and no further cell comes of it."""
    page = _Page(
        f"| a | b |\n| --- | --- |\n| {as_text(text)} | {as_code(text)} |\n\n- {as_text(text)}\n- {as_code(text)}\n"
    )
    assert page.texts == [seen(text)] * 4
    assert page.tags <= OURS


@pytest.mark.parametrize("name", NAMES)
def test_names_labels_and_errors_are_literal_text_in_the_whole_summary(name: str) -> None:
    """Wherever a name may stand: test, label, model, error, note, reason, problem, message."""
    ours = replace(WORKLOAD, model=f"models/{name.replace('/', '-')}".replace("\x00", ""))
    failed = trial(LORA, NLL, workload=ours).remeasured(outcome="crashed", error=TrialError(name), notes=(name,))
    share = Limit(0.02, SHARE, Origin("ini", name))
    one = verdict("FAIL", baseline=name, limit=share, value=0.6, interval=None, details=(f"why: {name}",))
    noted = verdict("PASS", note=name)
    remarks = Remarks(notes=[name], problems=[name], reasons={(name, name): [1]})
    summary = run_summary(
        [trial(FULL, NLL, workload=ours), failed],
        [RecordedVerdict(name, one), RecordedVerdict(name, noted)],
        [name],
        remarks,
    )
    page = _Page(render(summary))
    assert page.tags <= OURS
    lined = " ".join(seen(line.strip()) for line in name.split("\n"))  # a note may have lines
    for text, times in {seen(name): 3, lined: 2, f"note: lora r=16, seed 0: {lined}": 1}.items():
        assert page.texts.count(text) >= times, (text, page.texts)
    for text in (f"60.0% of {seen(name)}", f"why: {lined}", f"lora r=16, seed 0, ended crashed: {seen(name)}"):
        assert any(text in one for one in page.texts), (text, page.texts)


def test_what_is_longer_than_people_read_is_cut_in_the_middle() -> None:
    """600 characters are whole; of 601 the beginning and the end are shown."""
    assert as_code("x" * 600) == f"`{'x' * 600}`"
    assert as_code("a" + "x" * 599 + "b") == f"`a{'x' * 296} ... {'x' * 296}b`"


def test_the_worst_verdicts_come_first_and_say_why() -> None:
    """FAIL before INVALID before INCONCLUSIVE before PASS; the reason of each that did not pass is there."""
    text = render(run_summary([], recorded(["PASS", "INCONCLUSIVE", "FAIL", "INVALID", "FAIL"])))
    assert [status for status, _ in rows(text)] == ["FAIL", "FAIL", "INVALID", "INCONCLUSIVE", "PASS"]
    assert "**5 verdicts: 2 FAIL, 1 INVALID, 1 INCONCLUSIVE, 1 PASS**" in text
    assert text.index("| **FAIL** |") < text.index("| PASS |")
    assert f"- `t.py::test_2`: loss gap FAIL\\\n  {as_text(verdict('FAIL').headline)}\\\n  This is why.\n" in text
    assert "`t.py::test_0`: " not in text
    assert "Left out" not in text


def test_trials_failures_skipped_tests_and_notes_are_there() -> None:
    """The page says what the terminal says."""
    failed = trial(LORA, NLL, seed=1).remeasured(outcome="diverged", error=TrialError("the loss is nan"))
    text = render(
        run_summary([trial(FULL, NLL), failed], [], ["no GPU"], Remarks(notes=["note: so"], problems=["not written"]))
    )
    page = _Page(text)
    for words in (
        "model on train | 100 steps of 4x128 x 2 seeds | a processor, fp32",
        "learning rates: full 0.0001, lora r=16 0.001",
        "lora r=16",
        "lora r=16, seed 1, ended diverged: the loss is nan",
        "1 test did not run, so its gates were not checked:",
        "no GPU",
        "note: so",
        "not written",
    ):
        assert words in page.texts, (words, page.texts)
    assert text.index("not written") < text.index("learning rates")


def test_a_command_in_a_note_is_code() -> None:
    """It is copied as it is."""
    text = render(run_summary([], [], [], Remarks(notes=["note: move it:\n    git mv a_b c_d"])))
    assert "- note: move it:\\\n  `git mv a_b c_d`\n" in text


def test_a_plan_is_a_page_too() -> None:
    """It says that nothing was trained, and lists the trials."""
    planned = Trial(trial(LORA, NLL).spec, Measured(outcome="planned"))
    text = render(plan_summary([planned], [RecordedVerdict("t.py::test_it", verdict("FAIL"))]))
    assert text.startswith("## ftguard plan\n")
    assert "- plan: 1 trial to train, 0 cached; nothing was trained" in text
    assert "BREAKS the budget" in text
    assert "no forecast" in text


def test_a_thousand_trials_and_200_verdicts_fit_with_every_verdict() -> None:
    """Also if each test's name has 500 characters, most of them escaped, and each gate says much."""
    trials = [
        trial(
            LoRA(r=16, alpha=1 + number // 5, learning_rate=1e-3),
            NLL,
            seed=number % 5,
            notes=(f"note {number} " * 100,),
        )
        for number in range(1000)
    ]
    statuses: list[Status] = ["FAIL", "PASS"] * 100
    names = [f"{number:03}" + "<|`_*\\[" * 71 for number in range(200)]
    verdicts = [
        RecordedVerdict(name, verdict(status, details=("words " * 2000,)))
        for name, status in zip(names, statuses, strict=True)
    ]
    text = render(run_summary(trials, verdicts))
    assert len(text.encode()) < ONE_MIB
    found = _Page(text).texts
    assert {name for name in names if name in found} == set(names)
    assert "Every verdict is listed." in text
    assert "lora r=16 alpha=" in text  # the variants go before the explanations


def test_of_20_000_verdicts_those_that_failed_are_shown_and_the_rest_is_counted() -> None:
    """The text says itself what it lacks; nobody takes a list for complete that is not."""
    statuses: list[Status] = [*["PASS"] * 19_000, *["FAIL"] * 1000]  # type: ignore[list-item]
    text = render(run_summary([trial(FULL, NLL)], recorded(statuses, "test_of_a_name_of_usual_length[{}]")))
    assert ONE_MIB * 0.9 < len(text.encode()) < ONE_MIB
    listed = list(rows(text))
    assert [status for status, _ in listed[:1001]] == ["FAIL"] * 1000 + ["PASS"]
    missing = 20_000 - len(listed)
    assert 0 < missing < 20_000
    head = text.partition("###")[0]
    assert "**20000 verdicts: 1000 FAIL, 19000 PASS**" in head
    assert f"{missing:,} of 20,000 verdicts" in head
    assert f"Verdicts that are not listed: {missing:,} PASS." in head
    assert f"Not shown here, for lack of room: {missing:,} of 20,000 verdicts." in text
    assert "### What the gates say" not in text
    assert "learning rates" not in text


@pytest.mark.parametrize("room", [0, 999, 1500, 2000, 4000, 8000, 16_000, 32_000])
def test_no_room_is_too_small_to_be_kept(room: int) -> None:
    """The text is never longer; what matters less is never shown before all that matters more."""
    failed = trial(LORA, NLL).remeasured(outcome="crashed", error=TrialError("\N{ROCKET}" * 100))
    remarks = Remarks(notes=["note: so"], problems=["not written"])
    summary = run_summary([trial(FULL, NLL), failed], recorded(["PASS", "FAIL"] * 50), [], remarks)
    whole, text = render(summary), render(summary, room)
    assert len(text.encode()) <= room
    listed = len(list(rows(text)))
    assert ("note: so" in text) <= ("What the gates say" in text) <= ("learning rates" in text) <= (listed == 100)
    assert (text == whole) == ("Left out" not in text and text != "")
    if 0 < listed < 100:
        assert f"{100 - listed} of 100 verdicts" in text


@pytest.mark.parametrize(("spare", "is_whole"), [(-1, False), (0, True)])
def test_the_last_byte_of_the_room_is_used(spare: int, is_whole: bool) -> None:
    """All is shown if all fits, and not if one byte is missing; room for saying what is missing is kept free."""
    summary = run_summary([], recorded(["PASS"] * 3))
    kept_free = 1000 + 100
    room = len(render(summary).encode()) - 1 + kept_free  # the last line break stands for an omission
    assert ("Left out" not in render(summary, room + spare)) is is_whole


def test_the_step_summary_counts_what_is_there_already(tmp_path: Path) -> None:
    """Others' text stays; the file keeps within 1 MiB, in bytes and not in characters."""
    path, summary = tmp_path / "summary.md", run_summary([], recorded(["PASS", "FAIL"] * 500))
    assert append_summary(path, summary) is None
    assert path.read_text(encoding="utf-8") == render(summary)
    before = "\N{ROCKET}" * ((MOST_BYTES - 30_000) // 4)
    path.write_text(before, encoding="utf-8")
    assert append_summary(path, summary) is None
    text = path.read_bytes()
    assert len(text) < ONE_MIB
    assert text.startswith(f"{before}\n\n## ftguard summary\n".encode())
    assert b"of 1,000 verdicts" in text


def test_a_full_step_summary_is_left_alone(tmp_path: Path) -> None:
    """One byte more than GitHub takes would lose all of it."""
    path, summary = tmp_path / "summary.md", run_summary([], recorded(["PASS"]))
    for size in (MOST_BYTES - 100, ONE_MIB + 1):
        path.write_bytes(b"x" * size)
        assert append_summary(path, summary) == (
            f"it already holds {size:,} bytes, and GitHub shows nothing of a file of more than 1 MiB"
        )
        assert path.stat().st_size == size


def test_a_step_summary_that_cannot_be_written_is_a_reason(tmp_path: Path) -> None:
    """A folder in its place, or none around it."""
    summary = run_summary([], recorded(["PASS"]))
    assert append_summary(tmp_path, summary) == "Is a directory"
    assert append_summary(tmp_path / "none" / "summary.md", summary) == "No such file or directory"


def test_nothing_to_say_is_an_empty_summary() -> None:
    """Whoever writes files asks for it."""
    assert Summary().is_empty
    assert run_summary([], []).is_empty
    assert not run_summary([], recorded(["PASS"])).is_empty
    assert not run_summary([], [], [], Remarks(problems=["so"])).is_empty
