"""metrics.jsonl is the truth: each step once, whatever was cut short."""

import json
import struct

from arch.training.logbook import Logbook


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def events(folder):
    """(step, name, value) of all TensorBoard events, by a reader of the record format: length, crc, data, crc."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted((folder / "tensorboard").glob("events.*")):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            event = Event.FromString(content[at + 12 : at + 12 + length])
            found += [(event.step, value.tag, round(value.simple_value, 4)) for value in event.summary.value]
            at += 16 + length
    return found


def written(folder, steps, restored_step=0):
    book = Logbook(str(folder), restored_step)
    for step in steps:
        book.write(step, {"train/loss": step / 10, "test/accuracy": 0.5})
    book.plot()
    book.close()


def test_rows_after_the_restored_step_are_dropped_everywhere(tmp_path):
    written(tmp_path, [1, 2, 3, 4])
    written(tmp_path, [3, 4, 5], restored_step=2)
    assert [row["step"] for row in lines(tmp_path)] == [1, 2, 3, 4, 5]
    assert sorted(events(tmp_path)) == sorted(
        (step, name, value)
        for step in range(1, 6)
        for name, value in (("train/loss", step / 10), ("test/accuracy", 0.5))
    )


def test_a_torn_last_line_is_dropped(tmp_path):
    written(tmp_path, [1, 2])
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "train/lo')
    written(tmp_path, [3], restored_step=3)
    assert [row["step"] for row in lines(tmp_path)] == [1, 2, 3]


def test_has_knows_the_newest_row(tmp_path):
    book = Logbook(str(tmp_path), 0)
    assert not book.has(0)
    book.write(4, {"train/loss": 1.0})
    assert book.has(4) and not book.has(3)
    book.close()


def test_other_hosts_write_nothing(tmp_path):
    book = Logbook(str(tmp_path), 0, enabled=False)
    book.write(1, {"train/loss": 1.0})
    book.plot()
    book.close()
    assert not book.has(1)
    assert list(tmp_path.iterdir()) == []


def test_curves_are_a_picture_of_some_size(tmp_path):
    written(tmp_path, range(1, 50))
    header = (tmp_path / "curves.png").read_bytes()[:24]
    width, height = struct.unpack(">II", header[16:24])
    assert width > 1000 and height > 300
