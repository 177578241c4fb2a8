"""A result is accepted only with a test that passes, and the summary says what became of it."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from tests.plain.builders import unwrapped

from pytest_ftguard.accepting.names import file_name, file_number
from pytest_ftguard.files import write_all


def files(project: pytest.Pytester) -> list[Path]:
    return sorted(project.path.glob("ftguard_baselines/*"))


def write_test(project: pytest.Pytester, *lines: str, before: str = "") -> None:
    """Let the project's test accept a result and then go on with some lines."""
    rest = "".join(f"    {line}\n" for line in lines)
    project.path.joinpath("test_it.py").write_text(
        "import pytest, unittest\n"
        "from pytest_ftguard import LoRA, assert_loss_gap, assert_memory_budget, assert_no_regression\n\n"
        f"{before}def test_it(full_variant, lora_variant, request):\n"
        f"    assert_no_regression(lora_variant, full_variant)\n{rest}"
    )


def append(project: pytest.Pytester, name: str, text: str) -> None:
    file = project.path / name
    file.write_text(file.read_text() + text)


ENDINGS = {
    "an assertion": (["assert 1 == 2"], "", "failed"),
    "a gate": (["assert_loss_gap(lora_variant, full_variant, at_most=0.001)"], "", "failed"),
    "a skip": (["pytest.skip('no more')"], "", "skipped"),
    "an expected failure": (["assert 1 == 2"], "@pytest.mark.xfail\n", "xfailed"),
    "an unexpected pass": (["pass"], "@pytest.mark.xfail(strict=True)\n", "failed"),
    "a later metric that is refused": (
        ["del lora_variant.trials", "assert_no_regression(lora_variant, full_variant)"],
        "",
        "failed",
    ),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_nothing_is_accepted_with_a_test_that_does_not_pass(made_up: pytest.Pytester, name: str) -> None:
    """However it ends: nothing is written, the summary says so, and the verdict is INVALID there and in the reports."""
    lines, marks, outcome = ENDINGS[name]
    write_test(made_up, *lines, before=marks)
    result = made_up.runpytest_inprocess("--ftguard-update", "--ftguard-json=r.json", "--junitxml=junit.xml")
    result.assert_outcomes(**{outcome: 1})
    result.stdout.fnmatch_lines(
        [
            "regression  -  * INVALID",
            "    lora r=16 in test_it.py::test_it",
            "    Not accepted, because the test did not pass.",
        ]
    )
    told = {one.attrib["name"]: one.attrib["value"] for one in ET.parse(made_up.path / "junit.xml").iter("property")}
    assert told["ftguard.regression.status"] == "INVALID"
    verdicts = json.loads((made_up.path / "r.json").read_text())["verdicts"]
    assert {verdict["status"] for verdict in verdicts if verdict["gate"] == "regression"} == {"INVALID"}
    result.stdout.no_fnmatch_line("*result* accepted in*")
    assert "ACCEPTED" not in result.stdout.str()
    assert files(made_up) == []


def test_a_later_gate_that_only_warns_forbids_to_accept(made_up: pytest.Pytester) -> None:
    """It is named, the test fails without a line of ours in the traceback, and the result that was there stays."""
    made_up.runpytest_inprocess("--ftguard-update").assert_outcomes(passed=1)
    (file,) = files(made_up)
    first = file.read_text()
    made_up.path.joinpath("gap.txt").write_text("0.101")
    write_test(made_up, "assert_loss_gap(lora_variant, full_variant, at_most=0.102, on_inconclusive='warn')")
    options = ["--ftguard-gain-factor=0"]
    made_up.runpytest_inprocess(*options).assert_outcomes(passed=1, warnings=1)
    result = made_up.runpytest_inprocess("--ftguard-update", *options)
    result.assert_outcomes(failed=1, warnings=1)
    result.stdout.fnmatch_lines(
        [
            "ftguard: regression INVALID: not accepted, because the gate loss_gap of this test ended INCONCLUSIVE, *",
            "regression  -  * INVALID",
            "    Not accepted, because the gate loss_gap of this test ended INCONCLUSIVE.",
        ]
    )
    assert "pytest_ftguard/" not in result.stdout.str()
    assert "raceback" not in result.stdout.str()
    assert file.read_text() == first


def test_failures_that_only_a_report_tells_forbid_to_accept(made_up: pytest.Pytester) -> None:
    """A method of unittest, its subtests, and pytest's own: pytest knows of them after the test function has ended."""
    made_up.makepyfile(
        test_it="""
        import unittest
        import pytest
        from pytest_ftguard import assert_no_regression

        class TestIt(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def variants(self, full_variant, lora_variant):
                self.pair = lora_variant, full_variant

            def test_method(self):
                assert_no_regression(*self.pair)
                self.assertEqual(1, 2)

            def test_subtest(self):
                assert_no_regression(*self.pair)
                with self.subTest("one"):
                    self.assertEqual(1, 2)

            def test_good(self):
                with self.subTest("one"):
                    assert_no_regression(*self.pair)

        def test_function(lora_variant, full_variant, request):
            subtests = request.getfixturevalue("subtests")
            assert_no_regression(lora_variant, full_variant)
            with subtests.test("one"):
                pass
            assert not list(request.config.rootpath.glob("ftguard_baselines/*test_function*"))
            with subtests.test("two"):
                assert 1 == 2
        """
    )
    old = not hasattr(pytest, "Subtests")
    result = made_up.runpytest_inprocess("--ftguard-update", *(["-k", "method or good"] if old else []))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    names = ["TestIt::test_method"] if old else ["TestIt::test_method", "TestIt::test_subtest", "test_function"]
    for name in names:
        result.stdout.fnmatch_lines(["regression  -  * INVALID", f"    lora r=16 in test_it.py::{name}"])
    result.stdout.fnmatch_lines(["regression  -  * ACCEPTED", "    lora r=16 in test_it.py::TestIt::test_good"])
    assert result.stdout.str().count("Not accepted, because the test did not pass.") == 1
    assert result.stdout.str().count("  INVALID") == len(names)
    (file,) = files(made_up)
    assert file.name.startswith("test_it.TestIt.test_good-")


def test_a_fixture_can_accept_before_a_test_and_not_after_it(made_up: pytest.Pytester) -> None:
    """Before, the test still decides; after, it has passed already, whatever the fixture finds."""
    made_up.makepyfile(
        test_it="""
        import pytest
        from pytest_ftguard import assert_no_regression

        @pytest.fixture
        def before(full_variant, lora_variant):
            assert_no_regression(lora_variant, full_variant)

        @pytest.fixture
        def broken(before):
            assert 1 == 2

        @pytest.fixture
        def after(full_variant, lora_variant):
            yield
            assert_no_regression(lora_variant, full_variant)

        def test_good(before): pass
        def test_bad(before): assert 1 == 2
        def test_broken(broken): pass
        def test_late(after): pass
        """
    )
    result = made_up.runpytest_inprocess("--ftguard-update")
    result.assert_outcomes(passed=2, failed=1, errors=2)
    unwrapped(result).fnmatch_lines(
        [
            "*not accepted, because the test is over, limit *",
            "*What to do: call the helper before the test ends.",
            "regression  -  * ACCEPTED",
            "    lora r=16 in test_it.py::test_good",
            "    lora r=16 in test_it.py::test_bad",
            "    Not accepted, because the test did not pass.",
            "    lora r=16 in test_it.py::test_broken",
            "    (the note above holds here too)",
            "1 result accepted in *",
        ]
    )
    assert [file.name.split("-")[0] for file in files(made_up)] == ["test_it.test_good"]


RERUN = """
from _pytest.runner import runtestprotocol

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):  # as plugins that rerun tests do
    for _ in range(2):
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
        if not any(report.failed for report in reports):
            break
    return True
"""


def test_a_rerun_accepts_what_it_measured_itself(made_up: pytest.Pytester) -> None:
    """What the failed run accepted is forgotten, and the summary tells of the last run only."""
    append(made_up, "conftest.py", "\nimport pytest\n" + RERUN)
    write_test(
        made_up,
        "again = hasattr(request.config, 'again')",
        "request.config.again = True",
        "if not again:",
        "    assert_no_regression(request.getfixturevalue('ftguard').train(LoRA(r=2)), full_variant)",
        "assert again",
    )
    result = made_up.runpytest_inprocess("--ftguard-update", "--junitxml=junit.xml")
    unwrapped(result).fnmatch_lines(["1 result accepted in *ftguard_baselines: review and commit"])
    result.stdout.no_fnmatch_line("*Not accepted*")
    (file,) = files(made_up)
    assert json.loads(file.read_text())["accepted"]["candidate"]["variant"]["r"] != 2
    assert not file.name.endswith(".2.json")


def test_a_rerun_that_fails_takes_back_what_was_accepted_before_it(made_up: pytest.Pytester) -> None:
    """The last attempt counts, and it accepts nothing; the test itself sees a result that is pending."""
    again = RERUN.replace("if not any(report.failed for report in reports):", "if False:")
    append(made_up, "conftest.py", "\nimport pytest\n" + again)
    write_test(
        made_up,
        "verdict = assert_no_regression(lora_variant, full_variant)",
        "assert verdict.status == 'PENDING'",
        "first, request.config.first = getattr(request.config, 'first', True), False",
        "assert first",
    )
    result = made_up.runpytest_inprocess("--ftguard-update", "--ftguard-json=r.json")
    statuses = [one["status"] for one in json.loads((made_up.path / "r.json").read_text())["verdicts"]]
    assert statuses == ["INVALID", "INVALID"]
    result.stdout.fnmatch_lines(
        ["regression  -  * INVALID", "*(2 attempts)", "*Not accepted, because the test did not*"]
    )


@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["alone", "xdist"])
def test_what_was_written_stays_accepted_if_the_teardown_fails(made_up: pytest.Pytester, workers: list[str]) -> None:
    """The test has passed and its file is there; every report says the same, and another test is not concerned."""
    made_up.makepyfile(
        test_it="""
        import pytest
        from pytest_ftguard import assert_no_regression

        @pytest.fixture
        def leaking():
            yield
            assert 1 == 2

        def test_leaking(full_variant, lora_variant, leaking):
            assert_no_regression(lora_variant, full_variant)

        def test_other(full_variant, lora_variant):
            assert_no_regression(lora_variant, full_variant)
        """
    )
    result = made_up.runpytest_inprocess(
        "--ftguard-update", "--ftguard-json=r.json", "--ftguard-markdown=r.md", "--junitxml=junit.xml", *workers
    )
    result.assert_outcomes(passed=2, errors=1)
    unwrapped(result).fnmatch_lines(["2 results accepted in *: review and commit"])
    verdicts = json.loads((made_up.path / "r.json").read_text())["verdicts"]
    assert [one["status"] for one in verdicts] == ["ACCEPTED", "ACCEPTED"]
    assert all(one["message"].startswith("regression ACCEPTED, limit 0.02 (") for one in verdicts)
    told = [
        one.attrib["value"]
        for one in ET.parse(made_up.path / "junit.xml").iter("property")
        if one.attrib["name"] == "ftguard.regression.status"
    ]
    assert told == ["ACCEPTED", "ACCEPTED"]
    assert "**2 verdicts: 2 ACCEPTED**" in (made_up.path / "r.md").read_text()
    assert len(files(made_up)) == 2


def test_other_verdicts_keep_their_place_around_a_pending_one(made_up: pytest.Pytester) -> None:
    """The reports list the gates in the order in which the test asked them, and number those that it asked twice."""
    write_test(
        made_up,
        "assert_memory_budget(lora_variant, at_most='1 GB')",
        "assert_no_regression(lora_variant, full_variant, metric='memory', at_most='5%')",
    )
    made_up.runpytest_inprocess("--ftguard-update", "--ftguard-json=r.json", "--junitxml=junit.xml")
    verdicts = json.loads((made_up.path / "r.json").read_text())["verdicts"]
    assert [(one["gate"], one["status"]) for one in verdicts] == [
        ("regression", "ACCEPTED"),
        ("memory_budget", "PASS"),
        ("regression", "ACCEPTED"),
    ]
    told = {one.attrib["name"]: one.attrib["value"] for one in ET.parse(made_up.path / "junit.xml").iter("property")}
    assert told["ftguard.regression.unit"] == "nats per token"
    assert told["ftguard.regression.2.unit"] == "of the accepted result"


def test_a_thread_that_outlives_the_test_accepts_nothing(made_up: pytest.Pytester) -> None:
    """What it asked before the end of the test, and got after it, is INVALID and makes the run fail."""
    made_up.makepyfile(
        test_it="""
        import threading
        import pytest
        from pytest_ftguard import assert_no_regression
        from pytest_ftguard.accepting import helper

        @pytest.fixture
        def thread(full_variant, lora_variant, monkeypatch):
            asked, is_over = threading.Event(), threading.Event()
            conclude = helper.conclude

            def slowly(*args, **kwargs):
                asked.set()
                is_over.wait()
                return conclude(*args, **kwargs)

            monkeypatch.setattr(helper, "conclude", slowly)
            running = threading.Thread(target=assert_no_regression, args=(lora_variant, full_variant))
            running.start()
            asked.wait()
            yield
            is_over.set()
            running.join()

        def test_late(thread): pass
        """
    )
    result = made_up.runpytest_inprocess("--ftguard-update")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        [
            "regression  -  * INVALID",
            "    Not accepted, because the test was over.",
            "*: regression INVALID was given by a thread after the test",
        ]
    )
    assert files(made_up) == []


@pytest.mark.parametrize("workers", [[], ["-n1"]], ids=["alone", "xdist"])
def test_a_file_that_cannot_be_written_fails_its_test(
    made_up: pytest.Pytester, workers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one message that names it, and without a traceback; the other tests go on."""
    # The project's conftest.py replaces it.
    monkeypatch.setattr("pytest_ftguard.plugin.active_test.write_all", write_all)
    append(
        made_up,
        "conftest.py",
        "\nimport pytest_ftguard.plugin.active_test as testrecord\n"
        "def full(texts):\n    raise OSError(28, 'No space left on device')\n"
        "testrecord.write_all = full\n",
    )
    write_test(made_up)
    append(made_up, "test_it.py", "def test_other(): pass\n")
    result = made_up.runpytest_inprocess("--ftguard-update", "--junitxml=junit.xml", *workers)
    result.assert_outcomes(failed=1, passed=1)
    message = "ftguard: the accepted results '*.json' cannot be written: No space left on device"
    result.stdout.fnmatch_lines([message, "FAILED test_it.py::test_it*"])
    result.stdout.fnmatch_lines(["regression  -  * INVALID", "    Not accepted, because its file cannot be written."])
    assert "ACCEPTED" not in result.stdout.str()
    assert "raceback" not in result.stdout.str()
    assert ".py:" not in result.stdout.str().replace("test_it.py::", "")
    assert files(made_up) == []
    (failure,) = ET.parse(made_up.path / "junit.xml").iter("failure")
    assert "No space left on device" in failure.attrib["message"]


def test_a_second_metric_of_a_pair_is_accepted_with_the_first(made_up: pytest.Pytester) -> None:
    """One file, written once; another time there is nothing to be written."""
    write_test(made_up, "assert_no_regression(lora_variant, full_variant, metric='memory', at_most='5%')")
    result = made_up.runpytest_inprocess("--ftguard-update")
    result.assert_outcomes(passed=1)
    unwrapped(result).fnmatch_lines(["1 result accepted in *ftguard_baselines: review and commit"])
    again = made_up.runpytest_inprocess("--ftguard-update")
    again.assert_outcomes(passed=1)
    unwrapped(again).fnmatch_lines(["1 result accepted before in *ftguard_baselines: unchanged"])


def test_unchanged_results_are_counted(made_up: pytest.Pytester) -> None:
    """Next to those that were written, and if nothing was; also with the workers of xdist."""
    write_test(made_up)
    append(
        made_up,
        "test_it.py",
        "def test_other(full_variant, ftguard):\n    assert_no_regression(ftguard.train(LoRA(r=2)), full_variant)\n",
    )
    made_up.runpytest_inprocess("--ftguard-update").assert_outcomes(passed=2)
    next(file for file in files(made_up) if "other" in file.name).unlink()
    some = made_up.runpytest_inprocess("--ftguard-update", "-n2")
    unwrapped(some).fnmatch_lines(["1 result accepted in *ftguard_baselines: review and commit; 1 unchanged"])
    none = made_up.runpytest_inprocess("--ftguard-update")
    unwrapped(none).fnmatch_lines(["2 results accepted before in *ftguard_baselines: unchanged"])


def test_an_improvement_asks_to_be_accepted_in_the_summary(made_up: pytest.Pytester) -> None:
    """Below the gate, in the report and among the properties of JUnit, which are seen if a test passes."""
    made_up.runpytest_inprocess("--ftguard-update").assert_outcomes(passed=1)
    made_up.path.joinpath("gap.txt").write_text("0.05")
    result = made_up.runpytest_inprocess("--ftguard-json=r.json", "--junitxml=junit.xml")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "regression * PASS",
            "    lora r=16 in test_it.py::test_it",
            "    It has become better by more than the limit: accept it with",
        ]
    )
    (verdict,) = json.loads((made_up.path / "r.json").read_text())["verdicts"]
    assert verdict["note"].startswith("It has become better")
    properties = {
        one.attrib["name"]: one.attrib["value"] for one in ET.parse(made_up.path / "junit.xml").iter("property")
    }
    assert properties["ftguard.regression.note"] == verdict["note"]
    made_up.runpytest_inprocess("--ftguard-update").assert_outcomes(passed=1)
    same = made_up.runpytest_inprocess("--junitxml=junit.xml")
    same.stdout.no_fnmatch_line("*become better*")
    assert "ftguard.regression.note" not in (made_up.path / "junit.xml").read_text()


def test_a_result_in_doubt_beside_the_anchor_is_accepted_with_a_note_in_the_summary(made_up: pytest.Pytester) -> None:
    """It passes, as what is accepted and not as a comparison, and the note says what later runs like it will be."""
    made_up.runpytest_inprocess("--ftguard-update").assert_outcomes(passed=1)
    made_up.path.joinpath("gap.txt").write_text("0.119")
    others = "--ftguard-seeds=2,3,4"  # of which one is paired, so that the noise of both sides counts
    result = made_up.runpytest_inprocess("--ftguard-update", others, "--ftguard-json=r.json")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "regression  -  * ACCEPTED",
            "    lora r=16 in test_it.py::test_it",
            "    The loss gap of lora r=16 against full is +0.1* nats per token, and was",
            "    *this result is INCONCLUSIVE: *",
        ]
    )
    (verdict,) = json.loads((made_up.path / "r.json").read_text())["verdicts"]
    assert "Compared with the anchor, which was accepted first, this result is INCONCLUSIVE" in verdict["note"]
    later = made_up.runpytest_inprocess(others)
    later.assert_outcomes(failed=1)
    later.stdout.fnmatch_lines(["regression * INCONCLUSIVE"])


def test_a_file_of_another_test_is_named_with_both(made_up: pytest.Pytester) -> None:
    """A file that was copied to another test's name is not what was accepted of that test."""
    made_up.runpytest_inprocess("--ftguard-update").assert_outcomes(passed=1)
    (file,) = files(made_up)
    file.write_text(file.read_text().replace('"test_it.py::test_it"', '"test_it.py::test_old"'))
    for options in ([], ["--ftguard-update"], ["--ftguard-on-missing=warn"]):
        result = made_up.runpytest_inprocess(*options)
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(
            ["*are those of the test 'test_it.py::test_old', and this is*'test_it.py::test_it'*"]
        )
        assert "pytest_ftguard/" not in result.stdout.str()


UNUSED = "*test_it.test_it-*.json' holds what was accepted of test_it.py::test_it, which was not collected*delete it*"


def rename_test(project: pytest.Pytester, *more: str) -> None:
    """Rename the test with the accepted result, in its file with some other tests."""
    text = project.path.joinpath("test_it.py").read_text().replace("def test_it", "def test_new")
    project.path.joinpath("test_it.py").write_text(text + "".join(f"\ndef {name}(): pass\n" for name in more))


def test_the_file_of_a_renamed_test_is_named(made_up: pytest.Pytester) -> None:
    """Once in the summary, also by two workers; following the message keeps what was accepted of every pair."""
    write_test(made_up, "assert_no_regression(request.getfixturevalue('ftguard').train(LoRA(r=2)), full_variant)")
    made_up.runpytest_inprocess("--ftguard-update").assert_outcomes(passed=1)
    old = files(made_up)
    text = made_up.path.joinpath("test_it.py").read_text()
    made_up.makepyfile(test_it=text + "\n" + text.replace("test_it", "test_more"))
    rename_test(made_up)
    for options in ([], ["-n2"], ["-k", "new"], ["test_it.py"]):
        result = made_up.runpytest_inprocess(*options)
        unwrapped(result).fnmatch_lines(
            [
                '*if the test was renamed, rename its old file to test_it.test_new-*.json and write "test": '
                '"test_it.py::test_new" into it.',
                f"note: {UNUSED}",
            ]
        )
        assert str(unwrapped(result)).count("\nnote: '") == 2
    for place in old:
        content = place.read_text()
        assert content.count('"test": "test_it.py::test_it"') == 1
        renamed = place.with_name(file_name("test_it.py::test_new", file_number(place.name)[1]))
        renamed.write_text(content.replace("test_it.py::test_it", "test_it.py::test_new"))
        place.unlink()
    followed = made_up.runpytest_inprocess("-k", "new")
    followed.assert_outcomes(passed=1, deselected=1)
    unwrapped(followed).no_fnmatch_line("note: '*")


@pytest.mark.parametrize("workers", [[], ["-n1"]], ids=["alone", "xdist"])
def test_a_test_that_may_only_be_left_out_is_not_called_gone(made_up: pytest.Pytester, workers: list[str]) -> None:
    """By an argument with ::, by another file alone, by --lf, by -k or by --deselect."""
    made_up.makepyfile(test_u=made_up.path.joinpath("test_it.py").read_text().replace("test_it", "test_u"))
    made_up.runpytest_inprocess("--ftguard-update").assert_outcomes(passed=2)
    for options in (["-k", "test_u"], ["--deselect", "test_it.py::test_it"], ["test_u.py"]):
        left_out = made_up.runpytest_inprocess(*options, *workers)
        assert left_out.parseoutcomes()["passed"] == 1
        unwrapped(left_out).no_fnmatch_line("note: '*")
    rename_test(made_up, "test_good", "test_bad")
    unwrapped(made_up.runpytest_inprocess("-p", "no:cacheprovider")).fnmatch_lines([f"note: {UNUSED}"])
    for options in (["test_it.py::test_new"], ["test_u.py", "test_it.py::test_good"], ["test_u.py"], ["--lf"]):
        part = made_up.runpytest_inprocess(*options, *workers)
        unwrapped(part).no_fnmatch_line("note: '*")
    made_up.path.joinpath("test_it.py").unlink()
    removed = made_up.runpytest_inprocess("test_u.py::test_u", *workers)
    removed.assert_outcomes(passed=1)
    unwrapped(removed).fnmatch_lines([f"note: {UNUSED}"])


def test_names_with_groups_of_xdist_are_those_of_tests(made_up: pytest.Pytester) -> None:
    """Under --dist=loadgroup a worker's names end in the group, and no file is called unused for that."""
    test = made_up.path.joinpath("test_it.py")
    test.write_text("import pytest\n" + test.read_text().replace("def test", "@pytest.mark.xdist_group('a')\ndef test"))
    made_up.runpytest_inprocess("--ftguard-update").assert_outcomes(passed=1)
    result = made_up.runpytest_inprocess("-n2", "--dist=loadgroup")
    result.assert_outcomes(passed=1)
    unwrapped(result).no_fnmatch_line("note: '*")


PLAN = """
from pytest_ftguard.results import Measured, Trial
from pytest_ftguard.specs import TrialSpec

def plan(self, workload, variant):
    specs = [TrialSpec(workload=workload, variant=variant, seed=seed) for seed in workload.seeds]
    return TrainedVariant(workload, variant, tuple(Trial(spec, Measured(outcome="planned")) for spec in specs))

lab.Lab.plan = plan
"""


@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["alone", "xdist"])
def test_a_plan_says_which_tests_have_no_accepted_result(made_up: pytest.Pytester, workers: list[str]) -> None:
    """Before anything is trained that would then be held to nothing; what is about to be accepted need not be there."""
    append(made_up, "conftest.py", PLAN)
    write_test(made_up, "assert_no_regression(lora_variant, full_variant, metric='memory', at_most='5%')")
    append(made_up, "test_it.py", "def test_other(full_variant, ftguard):\n")
    append(made_up, "test_it.py", "    assert_no_regression(ftguard.train(LoRA(r=2)), full_variant)\n")
    options = ["--ftguard-plan", *workers]
    result = made_up.runpytest_inprocess(*options)
    assert result.ret == 0
    for name in ("test_it", "test_other"):
        unwrapped(result).fnmatch_lines(
            [f"note: *::{name} has no accepted result ('*.json' does not exist), so it would fail without *"]
        )
    assert str(unwrapped(result)).count("has no accepted result") == 2
    warned = made_up.runpytest_inprocess(*options, "--ftguard-on-missing=warn")
    unwrapped(warned).fnmatch_lines(["note: * has no accepted result *, so it would warn without --ftguard-update"])
    updated = made_up.runpytest_inprocess(*options, "--ftguard-update")
    unwrapped(updated).no_fnmatch_line("*has no accepted result*")
