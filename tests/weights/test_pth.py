"""Checkpoints that torch wrote, in both of its formats; what is broken, and what would run code, is refused."""

import collections
import io
import os
import pathlib
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from arch.weights.pth import read_pth

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"
FORMATS = ("archive", "sequence")


@pytest.mark.parametrize("form", FORMATS)
def test_every_tensor_is_torchs(form):
    """Of all dtypes; views, and tensors of one storage, have memory of their own."""
    expected = dict(np.load(GOLDENS / "pth.npz"))
    del expected["versions"]
    found = read_pth(str(GOLDENS / f"pth_{form}.pth"))
    assert set(found) == set(expected)
    for name, value in found.items():
        assert value.dtype == ("bfloat16" if name == "bfloat16" else expected[name].dtype)
        np.testing.assert_array_equal(value.astype(expected[name].dtype), expected[name], err_msg=name)
        assert value.flags.owndata and value.flags.writeable


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_that_is_cut_anywhere_is_one_line(form, tmp_path):
    content = (GOLDENS / f"pth_{form}.pth").read_bytes()
    path = tmp_path / "cut.pth"
    for size in range(0, len(content), 37):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError) as caught:
            read_pth(str(path))
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


class _Evil:
    """Unpickled by Python, it writes a file."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def _archive(path, pickled, contents=()):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", pickled)
        for key, content in dict(contents).items():
            archive.writestr(f"net/data/{key}", content)


def _sequence(path, *objects):
    header = (0x1950A86A20F9469CFC6C, 1001, {})
    path.write_bytes(b"".join(pickle.dumps(item, 2) for item in (*header, *objects)))


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("form", FORMATS)
def test_nothing_is_run(form, protocol, tmp_path):
    path, trace = tmp_path / "evil.pth", tmp_path / "trace"
    calls = [(os.system, f"touch {trace}"), (eval, f"open({str(trace)!r}, 'w')"), (exec, "import this")]
    calls += [(subprocess.Popen, ["touch", str(trace)]), (getattr, "a", "upper"), (__import__, "this")]
    for function, *arguments in calls:
        state = collections.OrderedDict(weight=_Evil(function, *arguments))
        pickled = pickle.dumps(state, protocol)
        if form == "archive":
            _archive(path, pickled)
        else:
            _sequence(path)
            path.write_bytes(path.read_bytes() + pickled)
        with pytest.raises(ValueError, match=r"which is no part of a tensor: refused, as reading it could run code"):
            read_pth(str(path))
    assert not trace.exists()
    # The control: Python's own reader runs it.
    pickle.loads(pickle.dumps(_Evil(os.system, f"touch {trace}"), protocol))
    assert trace.exists()


HOSTILE = {
    # Instructions that a state does not need: objects, attributes, extensions, names put together from texts.
    "inst": b"(S'true'\nios\nsystem\n.",
    "obj": b"(cos\nsystem\nS'true'\no.",
    "global": b"cos\nsystem\n(S'true'\ntR.",
    "global of a part": b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n.",
    "stack_global": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
    "dotted": b"\x80\x04\x8c\x0bcollections\x8c\x15OrderedDict.__class__\x93.",
    "extension": b"\x80\x02\x82\x01.",
    "new object": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
    "attributes of a function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}U\x0c__defaults__)s\x86b.",
    "call of no function": b"\x80\x02U\x04true)R.",
    "persistent text": b"Pstorage\n.",
    "a storage of no dtype": b"\x80\x02(U\x07storagectorch.cuda\nFloatStorage\nU\x010U\x03cpuK\x01tQ.",
    "item of no list": b"\x80\x02K\x01K\x02a.",
    "memory that was not set": b"\x80\x02h\x07.",
    "empty stack": b"\x80\x02.",
    "no end": b"\x80\x02}",
    "nothing": b"",
    "no state": b"\x80\x02K\x01.",
    "a dictionary in itself": b"\x80\x02}q\x00U\x05modelh\x00s.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_instructions_are_one_line(name, tmp_path):
    path = tmp_path / "evil.pth"
    _archive(path, HOSTILE[name])
    with pytest.raises(ValueError) as caught:
        read_pth(str(path))
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


class _Storage:
    """Pickled as torch's persistent id of a storage of float32."""

    def __init__(self, key, size):
        self.id = ("storage", _named("torch", "FloatStorage"), key, "cpu", size)


class _Rebuilt:
    def __init__(self, *arguments):
        self.arguments = arguments

    def __reduce__(self):
        return _named("torch._utils", "_rebuild_tensor_v2"), self.arguments


def _named(module, name):
    """A function that pickles as this name."""

    def function():
        raise AssertionError("never called")

    function.__module__, function.__qualname__, function.__name__ = module, name, name
    return function


class _Pickler(pickle._Pickler):
    """Names functions without importing them."""

    def persistent_id(self, obj):
        return obj.id if isinstance(obj, _Storage) else None

    def save_global(self, obj, name=None):
        self.write(b"c" + obj.__module__.encode() + b"\n" + obj.__name__.encode() + b"\n")
        self.memoize(obj)

    dispatch = {**pickle._Pickler.dispatch, type(_named): save_global}  # noqa: RUF012


def _pickled(state):
    out = io.BytesIO()
    _Pickler(out, 2).dump(state)
    return out.getvalue()


def _tensor(offset, shape, strides, size=4):
    return _Rebuilt(_Storage("0", size), offset, shape, strides, False, collections.OrderedDict())


@pytest.mark.parametrize(
    "tensor",
    [
        _tensor(1, (4,), (1,)),
        _tensor(-1, (4,), (1,)),
        _tensor(0, (2, 2), (3, 1)),
        _tensor(0, (2,), (-1,)),
        _tensor(0, (-2,), (1,)),
        _tensor(0, (10**9, 4), (0, 1)),
        _tensor(0, (4,), (10**30,)),
        _tensor(0, (4,), (1, 1)),
        _tensor(0.5, (4,), (1,)),
        _tensor(0, (4,), (1,), size=5),
        _tensor(0, (4,), (1,), size=-4),
        _tensor(0, (4,), (1,), size="4"),
        _Rebuilt(3, 0, (4,), (1,)),
        _Rebuilt(),
    ],
)
def test_no_tensor_reaches_beyond_its_storage(tensor, tmp_path):
    path = tmp_path / "broken.pth"
    numbers = np.arange(4, dtype=np.float32)
    _archive(path, _pickled({"a": _tensor(1, (2,), (2,))}), {"0": numbers.tobytes()})
    np.testing.assert_array_equal(read_pth(str(path))["a"], [1, 3])
    _archive(path, _pickled({"a": tensor}), {"0": numbers.tobytes()})
    with pytest.raises(ValueError) as caught:
        read_pth(str(path))
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_archives_that_are_none_of_torchs(tmp_path):
    path = tmp_path / "other.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", "")
    with pytest.raises(ValueError, match=r"an archive without data.pkl is no checkpoint of torch"):
        read_pth(str(path))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/data.pkl", b"\x80\x02}.")
    with pytest.raises(ValueError, match="an archive that is compressed is no checkpoint"):
        read_pth(str(path))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", _pickled({"a": _tensor(0, (4,), (1,))}))
        archive.writestr("net/byteorder", b"big")
    with pytest.raises(ValueError, match="of the other byte order; save it anew"):
        read_pth(str(path))
    path.write_bytes(b"\x89PNG\r\n")
    with pytest.raises(ValueError, match="no checkpoint of torch: it does not begin as one does"):
        read_pth(str(path))
    with pytest.raises(FileNotFoundError):
        read_pth(str(tmp_path / "none.pth"))


def test_a_checkpoint_without_a_state_says_what_to_save(tmp_path):
    path = tmp_path / "whole.pth"
    for state, message in (
        ({"epoch": 3}, "it holds no state of a network; save model.state_dict"),
        ({"state_dict": {"a": _tensor(0, (4,), (1,)), "b": 1}}, "'b' is no tensor; save model.state_dict"),
    ):
        _archive(path, _pickled(state), {"0": bytes(16)})
        with pytest.raises(ValueError, match=message):
            read_pth(str(path))


def test_torch_is_not_needed():
    code = "import sys; import arch.weights.load; print('torch' in sys.modules, 'safetensors' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]
