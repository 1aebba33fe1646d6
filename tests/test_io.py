"""Atomic files, and reading foreign weights without running what is in them."""

from __future__ import annotations

import io as bytes_io
import os
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from t2p import io
from t2p.io import UserError


def test_write_bytes_leaves_nothing_half_written(tmp_path, monkeypatch):
    target = tmp_path / "a" / "b.bin"
    io.write_bytes(target, b"old")

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="disk full"):
        io.write_bytes(target, b"new")
    assert target.read_bytes() == b"old"
    assert [p.name for p in target.parent.iterdir()] == ["b.bin"]


def test_json_equal_values_equal_bytes_and_damage_is_named(tmp_path):
    io.write_json(tmp_path / "a.json", {"b": 1, "a": [2]})
    io.write_json(tmp_path / "b.json", {"a": [2], "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert io.read_json(tmp_path / "a.json") == {"a": [2], "b": 1}
    (tmp_path / "a.json").write_text('{"a": [2')
    with pytest.raises(ValueError, match=r"a\.json is not valid JSON"):
        io.read_json(tmp_path / "a.json")


def test_publish_moves_a_finished_file(tmp_path):
    local = tmp_path / "work" / "x"
    local.parent.mkdir()
    local.write_bytes(b"whole")
    io.publish(local, tmp_path / "out" / "x")
    assert (tmp_path / "out" / "x").read_bytes() == b"whole" and not local.exists()


# Pickles.


class Named:
    """Pickles as a call of module.name(*args), whether or not that can be imported."""

    def __init__(self, module: str, name: str, *args, state=None):
        self.parts = (module, name, args, state)


class Global:
    def __init__(self, module: str, name: str):
        self.parts = (module, name)


class Pickler(pickle._Pickler):
    """Writes GLOBAL and REDUCE instructions by hand, and persistent ids for Storage objects."""

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Global):
            self.write(b"c" + "\n".join(obj.parts).encode() + b"\n")
        elif isinstance(obj, Named):
            module, name, args, state = obj.parts
            self.save(Global(module, name))
            self.save(args)
            self.write(pickle.REDUCE)
            if state is not None:
                self.save(state)
                self.write(pickle.BUILD)
        else:
            super().save(obj, save_persistent_id)

    def persistent_id(self, obj):
        return obj.pid if isinstance(obj, Storage) else None


class Storage:
    def __init__(self, kind: str, key: str, count: int):
        self.pid = ("storage", Global("torch", kind), key, "cpu", count)


def dumps(obj) -> bytes:
    stream = bytes_io.BytesIO()
    Pickler(stream, 2).dump(obj)
    return stream.getvalue()


def write_npy(path, pickled: bytes) -> None:
    with open(path, "wb") as f:
        np.lib.format.write_array_header_1_0(f, {"descr": "|O", "fortran_order": False, "shape": ()})
        f.write(pickled)


def write_zip(path, pickled: bytes, storages=None, byteorder=b"little", compression=zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", byteorder)
        archive.writestr("archive/version", b"3\n")
        for key, data in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", data)


def tensor(kind, key, count, offset, size, stride):
    hooks = Named("collections", "OrderedDict")
    return Named("torch._utils", "_rebuild_tensor_v2", Storage(kind, key, count), offset, size, stride, False, hooks)


EVIL = {
    "system": lambda path: Named("os", "system", f"touch {path}"),
    "posix": lambda path: Named("posix", "system", f"touch {path}"),
    "eval": lambda path: Named("builtins", "eval", f"open({str(path)!r}, 'w')"),
    "getattr": lambda path: Named("builtins", "getattr", Global("os", "path"), "exists"),
    "dotted": lambda path: Global("collections", "OrderedDict.fromkeys"),
    "numpy_loader": lambda path: Named("numpy", "load", str(path)),
    "torch_loader": lambda path: Named("torch", "load", str(path)),
}


@pytest.mark.parametrize("kind", EVIL)
def test_malicious_pickles_are_refused_by_name_and_not_run(tmp_path, kind):
    trace = tmp_path / "ran"
    evil = EVIL[kind](trace)
    name = ".".join(evil.parts[:2])
    write_npy(tmp_path / "a.npy", dumps({"params": {"w": evil}}))
    write_zip(tmp_path / "a.pt", dumps({"state_dict": OrderedDict(w=1), "other": [evil]}))
    for file in ("a.npy", "a.pt"):
        with pytest.raises(UserError, match=f"{file} is refused: .*{name}"):
            io.load_arrays(tmp_path / file)
    assert not trace.exists()


def test_real_reduce_attack_is_refused(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    np.save(tmp_path / "a.npy", {"params": Attack()}, allow_pickle=True)
    with pytest.raises(UserError, match="system"):
        io.load_npy_pickle(tmp_path / "a.npy")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "value",
    [
        Named("numpy", "dtype", "V8"),  # structured and raw memory
        Named("numpy", "dtype", "f4", state=(3, "<", None, ("a",), {"a": 1}, 4, 1, 0)),
        Named("_codecs", "encode", "abc", "zlib"),
        Storage("FloatStorage", "0", 4),  # an external reference where there is no archive
        Global("collections", "OrderedDict"),
    ],
)
def test_odd_content_is_refused(tmp_path, value):
    write_npy(tmp_path / "a.npy", dumps({"w": value}))
    with pytest.raises(UserError, match=r"a\.npy is refused"):
        io.load_npy_pickle(tmp_path / "a.npy")


def test_a_pickle_cannot_change_the_reader(tmp_path):
    stream = bytes_io.BytesIO()
    stream.write(b"\x80\x02cnumpy\nndarray\n(NS'call'\nNs}S'call'\nNs\x86b.")
    write_npy(tmp_path / "a.npy", stream.getvalue())
    with pytest.raises(UserError):
        io.load_npy_pickle(tmp_path / "a.npy")
    array = {"w": np.arange(3.0)}
    np.save(tmp_path / "b.npy", array, allow_pickle=True)
    np.testing.assert_array_equal(io.load_npy_pickle(tmp_path / "b.npy")["w"], array["w"])


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("module", ["numpy._core", "numpy.core"])
def test_numpy_arrays_of_all_protocols(tmp_path, protocol, module):
    tree = {
        "a/~/b": {"w": np.asfortranarray(np.arange(6, dtype=np.float16).reshape(2, 3)), "b": np.arange(3, dtype=">i4")},
        "scalar": np.float64(2.5),
        "empty": np.zeros((0, 4)),
        "flag": np.array([True, False]),
    }
    whole = np.empty((), object)
    whole[()] = {"params": tree, "state": {}}
    pickled = pickle.dumps(whole, protocol)
    if protocol < 4:  # names are NUL-free lines there, so the older module can be named
        pickled = pickled.replace(b"cnumpy._core.", b"c" + module.encode() + b".")
    write_npy(tmp_path / "a.npy", pickled)
    got = io.load_npy_pickle(tmp_path / "a.npy")
    assert got["state"] == {} and got["params"]["scalar"] == 2.5
    for name in ("w", "b"):
        np.testing.assert_array_equal(got["params"]["a/~/b"][name], tree["a/~/b"][name])
    flat = io.load_arrays(tmp_path / "a.npy")
    assert set(flat) == {"a/~/b/w", "a/~/b/b", "empty", "flag"}
    assert flat["a/~/b/w"].dtype == np.float16 and flat["empty"].shape == (0, 4)


def test_npy_without_a_dict_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(4.0))
    with pytest.raises(UserError, match=r"float64 of shape \(4,\); expected a saved dict"):
        io.load_npy_pickle(tmp_path / "a.npy")
    (tmp_path / "b.npy").write_bytes(b"hello")
    with pytest.raises(UserError, match=r"b\.npy is not an \.npy file"):
        io.load_npy_pickle(tmp_path / "b.npy")


def test_truncated_pickle(tmp_path):
    np.save(tmp_path / "a.npy", {"w": np.arange(100.0)}, allow_pickle=True)
    data = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="not a whole pickle"):
        io.load_npy_pickle(tmp_path / "a.npy")


# Zip archives as torch.save writes them.


def test_torch_zip_strides_types_and_shared_storages(tmp_path):
    base = np.arange(60, dtype="<f4").reshape(3, 4, 5)
    bf16 = np.array([1.5, -2.0, 0.375], "<f4")
    storages = {
        "0": base.tobytes(),
        "1": (bf16.view("<u4") >> 16).astype("<u2").tobytes(),
        "2": np.array([7], "<i8").tobytes(),
    }
    weights = OrderedDict(
        whole=tensor("FloatStorage", "0", 60, 0, (3, 4, 5), (20, 5, 1)),
        turned=tensor("FloatStorage", "0", 60, 21, (2, 3, 2), (1, 5, 20)),
        bf16=tensor("BFloat16Storage", "1", 3, 0, (3,), (1,)),
        steps=tensor("LongStorage", "2", 1, 0, (), ()),
        expanded=tensor("FloatStorage", "0", 60, 2, (2, 3), (0, 1)),
        empty=tensor("FloatStorage", "0", 60, 60, (0, 3), (3, 1)),
        parameter=Named("torch._utils", "_rebuild_parameter", tensor("LongStorage", "2", 1, 0, (1,), (1,)), True, None),
    )
    write_zip(tmp_path / "a.pt", dumps({"model": weights, "optimizer": {"lr": 0.1}, "epoch": 3}), storages)
    got = io.load_arrays(tmp_path / "a.pt")
    assert set(got) == set(weights)
    np.testing.assert_array_equal(got["whole"], base)
    np.testing.assert_array_equal(got["turned"], base.transpose(2, 1, 0)[1:3, :3, 1:3])
    np.testing.assert_array_equal(got["bf16"], bf16)
    np.testing.assert_array_equal(got["expanded"], np.broadcast_to(base[0, 0, 2:5], (2, 3)))
    assert got["bf16"].dtype == np.float32 and got["steps"] == 7 and got["steps"].shape == ()
    assert got["empty"].shape == (0, 3) and got["parameter"].tolist() == [7]
    assert io.load_torch_zip(tmp_path / "a.pt")["epoch"] == 3


def test_torch_zip_big_endian_and_numpy_content(tmp_path):
    weights = {"state_dict": {"w": tensor("FloatStorage", "0", 2, 0, (2,), (1,))}}
    write_zip(tmp_path / "a.ckpt", dumps(weights), {"0": np.array([1, 2], ">f4").tobytes()}, byteorder=b"big")
    np.testing.assert_array_equal(io.load_arrays(tmp_path / "a.ckpt")["w"], [1, 2])
    states = np.arange(6.0).reshape(2, 3)
    write_zip(tmp_path / "a.pruned_init", pickle.dumps(states, 2))
    np.testing.assert_array_equal(io.load_torch_zip(tmp_path / "a.pruned_init"), states)


@pytest.mark.parametrize(
    "bad",
    [
        (0, (3,), (2,)),  # past the end
        (4, (1,), (1,)),
        (-1, (2,), (1,)),
        (0, (-2,), (1,)),
        (1, (2,), (-1,)),
        (0, (2, 2), (1,)),
        (0, (2**40,), (1,)),
    ],
)
def test_tensors_outside_their_storage_are_refused(tmp_path, bad):
    write_zip(tmp_path / "a.pt", dumps({"w": tensor("FloatStorage", "0", 4, *bad)}), {"0": bytes(16)})
    with pytest.raises(UserError, match=r"a\.pt is refused: a tensor"):
        io.load_arrays(tmp_path / "a.pt")


def test_damaged_archives(tmp_path):
    weights = {"w": tensor("FloatStorage", "0", 4, 0, (4,), (1,))}
    write_zip(tmp_path / "short.pt", dumps(weights), {"0": bytes(12)})
    with pytest.raises(UserError, match="only 12 bytes"):
        io.load_arrays(tmp_path / "short.pt")
    write_zip(tmp_path / "missing.pt", dumps(weights))
    with pytest.raises(UserError, match="no member archive/data/0"):
        io.load_arrays(tmp_path / "missing.pt")
    write_zip(tmp_path / "packed.pt", dumps(weights), {"0": bytes(16)}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="compressed"):
        io.load_arrays(tmp_path / "packed.pt")
    write_zip(tmp_path / "whole.pt", dumps(weights), {"0": b"\x07" * 16})
    data = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[:-30])
    with pytest.raises(UserError, match="cut off"):
        io.load_arrays(tmp_path / "cut.pt")
    (tmp_path / "flipped.pt").write_bytes(data.replace(b"\x07" * 16, b"\x07" * 15 + b"\x08"))
    with pytest.raises(UserError, match="CRC"):
        io.load_arrays(tmp_path / "flipped.pt")


def test_old_torch_format_and_other_files(tmp_path):
    (tmp_path / "old.pt").write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2))
    with pytest.raises(UserError, match=r"PyTorch 1\.6.*save it again"):
        io.load_arrays(tmp_path / "old.pt")
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
        archive.writestr("a.txt", "hello")
    with pytest.raises(UserError, match=r"without the data\.pkl"):
        io.load_arrays(tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"cannot read \.h5"):
        io.load_arrays(tmp_path / "a.h5")


def test_npz_and_safetensors(tmp_path):
    from safetensors.numpy import save_file

    arrays = {"a/w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2, np.int64)}
    np.savez(tmp_path / "a.npz", **arrays)
    save_file(arrays, tmp_path / "a.safetensors")
    for file in ("a.npz", "a.safetensors"):
        got = io.load_arrays(tmp_path / file)
        assert set(got) == set(arrays)
        np.testing.assert_array_equal(got["a/w"], arrays["a/w"])
    np.savez(tmp_path / "object.npz", w=np.array([{}], object))
    np.savez(tmp_path / "none.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:100])
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:40])
    for file in ("object.npz", "cut.npz", "cut.safetensors"):
        with pytest.raises(UserError, match=f"{file} is not a whole"):
            io.load_arrays(tmp_path / file)
    with pytest.raises(UserError, match="holds no arrays"):
        io.load_arrays(tmp_path / "none.npz")


def test_reads_what_torch_writes(tmp_path):
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    torch.save({"state_dict": module.state_dict(), "epoch": 1}, tmp_path / "a.pt")
    got = io.load_arrays(tmp_path / "a.pt")
    for name, value in module.state_dict().items():
        np.testing.assert_array_equal(got[name], value.numpy())
