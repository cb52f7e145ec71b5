"""Rows on their way from a run's folder to whoever watches, also when a resumed run takes some of them back."""

import json
import queue

import pytest

from fedrobust.running.follow import Following
from fedrobust.storage.run_folder import ROUNDS, RunFolder


class Recorder:
    """A watcher that keeps what it is told, and fails where it is asked to."""

    name = "recorder"

    def __init__(self, fails_at=()):
        self.before, self.rounds, self.ended, self.fails_at = None, queue.Queue(), 0, fails_at

    def begin(self, rows):
        self.before = [row["round"] for row in rows]

    def round(self, row):
        if row["round"] in self.fails_at:
            raise OSError("store is down\nsecond line")
        self.rounds.put((row["round"], row.get("seconds")))

    def end(self):
        self.ended += 1
        if "end" in self.fails_at:
            raise ValueError

    def told(self):
        return [self.rounds.get_nowait() for _ in range(self.rounds.qsize())]


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path)


def append(folder, *rounds, seconds=1.0):
    folder.append(ROUNDS, [{"round": number, "seconds": seconds} for number in rounds])


def test_rows_are_handed_on_as_they_are_written_and_all_by_the_end(folder, slowness):
    recorder = Recorder()
    with Following(folder, [recorder], pytest.fail):
        assert recorder.before == []
        append(folder, 1)
        assert recorder.rounds.get(timeout=20 * slowness()) == (1, 1.0)
        append(folder, 2, 3)
    assert recorder.told() == [(2, 1.0), (3, 1.0)]
    assert recorder.ended == 1


def test_rows_of_before_are_passed_over_and_a_repeated_round_is_not(folder):
    append(folder, 1, 2, 3)
    kept, recorder = sum(len(line) for line in (folder.path / ROUNDS).read_bytes().splitlines(True)[:2]), Recorder()
    with Following(folder, [recorder], pytest.fail):
        assert recorder.before == [1, 2, 3]
        folder.cut_back({ROUNDS: kept})
        append(folder, 3, seconds=2.0)  # as long as the row before: by its size the file has not changed
        append(folder, 4)
    assert recorder.told() == [(3, 2.0), (4, 1.0)]


def test_a_row_that_is_not_written_out_waits(folder):
    recorder = Recorder()
    with Following(folder, [recorder], pytest.fail) as following, open(folder.path / ROUNDS, "w") as file:
        text = json.dumps({"round": 1}) + "\n"
        file.write(text[:5])
        file.flush()
        assert following._new_rows() == []
        file.write(text[5:])
    assert recorder.told() == [(1, None)]


def test_a_watcher_that_fails_is_named_once_and_the_others_go_on(folder):
    bad, good, lines = Recorder(fails_at=(1, "end")), Recorder(), []
    with Following(folder, [bad, good], lines.append):
        append(folder, 1, 2)
    assert lines == ["recorder: store is down", "recorder: ValueError"]
    assert bad.told() == []
    assert good.told() == [(1, 1.0), (2, 1.0)]
    assert (bad.ended, good.ended) == (1, 1)


def test_when_one_cannot_begin_the_others_end(folder):
    class Refuses(Recorder):
        def begin(self, rows):
            raise RuntimeError("no")

    first = Recorder()
    with pytest.raises(RuntimeError, match="no"), Following(folder, [first, Refuses()], pytest.fail):
        pytest.fail("the block is not entered")
    assert first.ended == 1
