"""The list of faults fits the code: each text is there exactly once, and so is each test that must see it."""

import pytest

from .mutants import Fault, faults

FAULTS = faults()


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.what for fault in FAULTS])
def test_text_and_tests_are_there(fault: Fault) -> None:
    assert fault.missing() == ""
    assert fault.text != fault.put
    assert fault.tests


def test_faults_are_many_and_each_is_another() -> None:
    assert len(FAULTS) >= 44
    assert len({fault.what for fault in FAULTS}) == len(FAULTS)
    assert len({(fault.file, fault.text, fault.put) for fault in FAULTS}) == len(FAULTS)


def test_what_is_not_there_is_said() -> None:
    good = FAULTS[0]
    for changes, said in (
        ({"text": "no such text"}, "is there 0 times, not once"),
        ({"text": "\n"}, "times, not once"),
        ({"tests": ("tests/none.py",)}, "tests/none.py: no such file"),
        ({"tests": ("tests/test_mutants.py::test_none",)}, "tests/test_mutants.py: no test test_none"),
    ):
        assert said in Fault(**{**vars(good), **changes}).missing()
