"""The benchmark of the input pipeline, on a few small files and, where torch is not installed, without peers."""

import io
import itertools
import json
import os

import numpy as np
import pytest
from PIL import Image

from scripts import _jpegs, _results, bench_input

SMALL = ["--images=8", "--examples=64", "--batch=4", "--size=64x48", "--pairs=2"]


@pytest.fixture
def no_torch(monkeypatch):
    monkeypatch.setattr(bench_input, "has_torch", lambda: False)


def test_a_run_without_torch_says_so_is_logged_and_continued(no_torch, tmp_path, capsys, monkeypatch):
    path = tmp_path / "input.jsonl"
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    assert bench_input.main([f"--json={path}", *SMALL]) == 0
    out = capsys.readouterr().out
    assert out.count("torch or torchvision is not installed: ours alone\n") == 1
    header, *rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert header["record"] == "input_run" and header["peers"] == [] and "Pillow" in header["decoder"]
    assert [(row["case"], row["size"], row["images"]) for row in rows] == [
        ("streamed", "64x48x3", 8),
        ("in_memory", "28x28x1", 64),
    ]
    for row in rows:
        assert row["ms"]["ours"] > 0 and row["ratio"] == {}
        assert _results.input_line(row) in out
    if allowed:
        assert os.sched_getaffinity(0) == allowed
    monkeypatch.setattr(bench_input, "timed", lambda *args: pytest.fail("measured again"))
    assert bench_input.main([f"--json={path}", *SMALL]) == 0
    assert f"[{path}]" in capsys.readouterr().out


def test_the_files_are_as_large_as_those_of_imagenet(tmp_path):
    num_bytes = _jpegs.write_folder(tmp_path, 16, (500, 375))
    assert num_bytes == pytest.approx(110e3, rel=0.1)
    files = sorted((tmp_path / "train").glob("*/*.jpg"))
    assert len(files) == 16 and len({file.parent for file in files}) == _jpegs.NUM_CLASSES
    images = [Image.open(io.BytesIO(file.read_bytes())) for file in files]
    assert sorted({image.size for image in images}) == [(375, 500), (500, 375)]
    # As in photographs, the amplitude halves where the frequency doubles, and the colours of a pixel are alike.
    red, green = (np.asarray(images[-1], np.float64)[..., channel] for channel in (0, 1))
    frequency = np.hypot(np.fft.fftfreq(red.shape[0])[:, None], np.fft.fftfreq(red.shape[1])[None])
    amplitude = np.abs(np.fft.fft2(red))
    low, high = (amplitude[abs(frequency - center) < 0.01].mean() for center in (0.05, 0.1))
    assert low / high == pytest.approx(2, rel=0.1)
    assert np.corrcoef(red.ravel(), green.ravel())[0, 1] == pytest.approx(0.9, abs=0.1)


def test_peers_whose_work_differs_are_refused():
    def one_pass(images, labels):
        return lambda: (pair for pair in [(images, labels)])

    images, labels = np.full((2, 4, 4, 3), 100, np.uint8), np.array([0, 1])
    bench_input._compare({"ours": one_pass(images, labels), "near": one_pass(images + 1, labels)})
    with pytest.raises(ValueError, match=r"^far: 2.00 grey levels off ours, over 1.0; compare equal work"):
        bench_input._compare({"ours": one_pass(images, labels), "far": one_pass(images + 2, labels)})
    for other in ((images[:, :2], labels), (images, labels[::-1])):
        with pytest.raises(ValueError, match=r"^other: shape .* compare equal work"):
            bench_input._compare({"ours": one_pass(images, labels), "other": one_pass(*other)})


def test_time_is_that_of_a_pass_or_of_all_but_its_first_batch(monkeypatch):
    ticks = itertools.count()
    for name in ("perf_counter", "process_time"):
        monkeypatch.setattr(bench_input.time, name, lambda: float(next(ticks)))
    batches = [(None, np.zeros(4))] * 3
    assert bench_input._seconds_per_image(lambda: iter(batches), 0) == 1 / 12
    assert bench_input._seconds_per_image(lambda: iter(batches), 2) == 1 / 8
    with pytest.raises(ValueError, match="more than one batch"):
        bench_input._seconds_per_image(lambda: iter(batches[:1]), 2)


def test_the_page_names_the_peer_to_beat(tmp_path):
    header = {"record": "input_run", "device": "a processor", "threads": 1, "versions": {"jax": "1.2"}}
    header |= {"dtype": "uint8", "pairs": 9, "batch": 64, "workers": 0, "decoder": "Pillow 11"}
    ratios = {
        name: {"median": m, "low": m, "high": m} for name, m in {"slow": 2.0, "fast": 1.5, "a_float": 1.2}.items()
    }
    row = {"record": "input", "case": "streamed", "size": "500x375x3", "images": 128, "file_bytes": 111_000}
    row |= {"ms": {"ours": 2.0, "slow": 4.0, "fast": 3.0, "a_float": 2.4}, "ratio": ratios}
    source, page = tmp_path / "input.jsonl", tmp_path / "performance.md"
    source.write_text("".join(json.dumps(record) + "\n" for record in (header, row)))
    assert bench_input.main([f"--markdown={page}", f"--json={source}"]) == 0
    text = page.read_text()
    assert "a processor, 1 threads, jax 1.2, Pillow 11, uint8, 9 pairs; batches of 64, in this process" in text
    assert "### streamed, 128 images of 500x375x3 from JPEG files of 111 kB" in text
    assert "| ours | 500 | - |" in text and "| **fast** | 333.3 | 1.5 (1.5-1.5) |" in text
    assert "| slow | 250 |" in text and "| a_float | 416.7 |" in text


def test_wrong_flags_are_one_line(no_torch, capsys):
    for flag, said in (("--size=500", "must be width x height"), ("--batch=500", "--images=128 must fill a batch")):
        with pytest.raises(SystemExit):
            bench_input.main([flag])
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1
    assert bench_input.main(["--workers=10000"]) == 1
    assert capsys.readouterr().err.startswith("bench_input: --workers=10000 must be at most the ")
