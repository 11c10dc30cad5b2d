import zipfile

import numpy as np
import pytest

from mi_jax.cli import files as reading
from tests.cli.sources import save


def test_npz_reads_the_arrays_asked_for(tmp_path):
    x, y = np.arange(12.0).reshape(6, 2), np.arange(6)
    np.savez(tmp_path / "data.npz", x=x, y=y, other=np.zeros(3))
    found = reading.read_samples([tmp_path / "data.npz"])
    np.testing.assert_array_equal(found.x, x)
    np.testing.assert_array_equal(found.y, y)
    assert (found.x_names, found.y_names, found.dropped) == (("x",), ("y",), 0)
    swapped = reading.read_samples([tmp_path / "data.npz"], x=["y"], y=["x"])
    np.testing.assert_array_equal(swapped.x, y)


def test_compressed_npz(tmp_path):
    np.savez_compressed(tmp_path / "data.npz", x=np.arange(6.0), y=np.arange(6.0))
    assert reading.read_samples([tmp_path / "data.npz"]).x.tolist() == list(range(6))


def test_npy_files_are_mapped_not_loaded(tmp_path):
    for name, values in (("x", np.arange(12.0).reshape(6, 2)), ("y", np.arange(6) > 2)):
        np.save(tmp_path / f"{name}.npy", values)
    found = reading.read_samples([tmp_path / "x.npy", tmp_path / "y.npy"])
    assert isinstance(found.x, np.memmap)
    assert found.x[5].tolist() == [10.0, 11.0]
    assert found.y.tolist() == [False] * 3 + [True] * 3


def test_npz_with_an_object_array_beside_is_read(tmp_path):
    np.savez(tmp_path / "data.npz", x=np.arange(3.0), y=np.arange(3.0), o=np.array([{}], object))
    assert reading.read_samples([tmp_path / "data.npz"]).x.size == 3


def test_no_pickle_is_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return pytest.fail, ("a pickle was loaded",)

    np.save(tmp_path / "x.npy", np.array([Trap()], object), allow_pickle=True)
    np.save(tmp_path / "y.npy", np.zeros(1))
    np.savez(tmp_path / "data.npz", x=np.array([Trap()], object), y=np.zeros(1))
    for files in (["x.npy", "y.npy"], ["data.npz"]):
        with pytest.raises(ValueError, match=r"(x.npy|data.npz): .*(Python objects|Object arrays)"):
            reading.read_samples([tmp_path / name for name in files])


@pytest.mark.parametrize("keep", [10, 100, -1, -30])
@pytest.mark.parametrize("kind", [".npz", ".npy", ".parquet"])
def test_truncated_files(tmp_path, kind, keep):
    files, columns = save(tmp_path, kind, np.random.default_rng(0).normal(size=(50, 2)), np.arange(50.0))
    files[0].write_bytes(files[0].read_bytes()[:keep])
    with pytest.raises(ValueError, match=f"{files[0].name}: damaged"):
        reading.read_samples(files, **columns)


def test_a_flipped_byte_in_npz(tmp_path):
    np.savez(tmp_path / "data.npz", x=np.zeros(1000), y=np.zeros(1000))
    content = bytearray((tmp_path / "data.npz").read_bytes())
    content[1_000] ^= 1
    (tmp_path / "data.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"data.npz: damaged.*CRC"):
        reading.read_samples([tmp_path / "data.npz"])


def test_an_npz_that_is_another_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        archive.writestr("x", "text")
        archive.writestr("y", "text")
    with pytest.raises(ValueError, match=r"data.npz: 'x' must be an array, got a file of another kind"):
        reading.read_samples([tmp_path / "data.npz"])


def test_groups_of_arrays(tmp_path):
    np.savez(tmp_path / "data.npz", x=np.arange(3.0), y=np.arange(3.0), who=np.array(["a", "b", "a"]))
    assert reading.read_samples([tmp_path / "data.npz"], groups="who").groups.tolist() == ["a", "b", "a"]
    assert reading.read_samples([tmp_path / "data.npz"]).groups is None
    with pytest.raises(ValueError, match=r"--groups: .* has no array 'whom'; it has x, y, who"):
        reading.read_samples([tmp_path / "data.npz"], groups="whom")
    for name in "xy":
        np.save(tmp_path / f"{name}.npy", np.arange(3.0))
    with pytest.raises(ValueError, match=r"--groups names an array or columns, and an .npy file holds one array"):
        reading.read_samples([tmp_path / "x.npy", tmp_path / "y.npy"], groups="x")
