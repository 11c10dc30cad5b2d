import gzip
import hashlib
import http.server
import io
import shutil
import struct
import tarfile
import threading

import numpy as np
import pytest

from benchmarks.images import datasets

TRAIN, TEST = 30, 10  # images in these small files


def idx(array, dtype=0x08):
    array = np.asarray(array, np.uint8)
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, dtype, array.ndim, *array.shape) + array.tobytes()


def pixels(n, seed):
    return np.random.default_rng(seed).integers(0, 256, (n, 28, 28), np.uint8)


def labels(n):
    return np.arange(n) % 10


@pytest.fixture
def mnist(tmp_path):
    folder = tmp_path / "mnist"
    folder.mkdir()
    for part, n, seed in (("train", TRAIN, 0), ("t10k", TEST, 1)):
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels(n, seed))))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels(n))))
    return folder


def records(n, seed=0):
    rng = np.random.default_rng(seed)
    return np.hstack([labels(n)[:, None], rng.integers(0, 256, (n, 3_072))]).astype(np.uint8)


@pytest.fixture
def cifar(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    (folder / "data_batch_1.bin").write_bytes(records(TRAIN).tobytes())
    (folder / "test_batch.bin").write_bytes(records(TEST, 1).tobytes())
    return folder


def test_mnist_is_what_was_written(mnist):
    train, test = datasets.mnist(mnist, subset=True)
    np.testing.assert_array_equal(train.images, pixels(TRAIN, 0)[..., None])
    np.testing.assert_array_equal(test.images, pixels(TEST, 1)[..., None])
    np.testing.assert_array_equal(train.labels, labels(TRAIN))
    assert train.images.dtype == np.uint8


def test_mnist_may_be_uncompressed(mnist):
    for path in list(mnist.iterdir()):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    train, _ = datasets.mnist(mnist, subset=True)
    np.testing.assert_array_equal(train.images, pixels(TRAIN, 0)[..., None])


def test_cifar_is_what_was_written(cifar):
    train, test = datasets.cifar10(cifar, subset=True)
    assert train.images.shape == (TRAIN, 32, 32, 3)
    # Channel first, each row by row: red at (y, x) = (2, 5), and blue.
    assert train.images[3, 2, 5, 0] == records(TRAIN)[3, 1 + 2 * 32 + 5]
    assert train.images[3, 2, 5, 2] == records(TRAIN)[3, 1 + 2 * 1_024 + 2 * 32 + 5]
    np.testing.assert_array_equal(test.labels, labels(TEST))


def test_cifar_is_found_from_the_folder_around_it(cifar):
    (cifar / "data_batch_2.bin").write_bytes(records(5, 2).tobytes())
    train, _ = datasets.cifar10(cifar.parent, subset=True)
    assert len(train.images) == TRAIN + 5


IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
# name -> what is done to MNIST's folder, and what the error says
DAMAGED_MNIST = {
    "a missing file": (lambda f: (f / IMAGES).unlink(), FileNotFoundError, "train-images.* not found in .*: put MNIST's"),
    "no folder": (lambda f: shutil.rmtree(f), FileNotFoundError, "which is no folder: put MNIST's four IDX files"),
    "truncated gzip": (
        lambda f: (f / IMAGES).write_bytes((f / IMAGES).read_bytes()[:-50]),
        ValueError,
        "train-images.* is no whole gzip file",
    ),
    "flipped bits": (lambda f: flip(f / IMAGES), ValueError, "train-images.* is no whole gzip file"),
    "truncated pixels": (
        lambda f: (f / IMAGES).write_bytes(gzip.compress(idx(pixels(TRAIN, 0))[:-1])),
        ValueError,
        "its header states 30 x 28 x 28 bytes, but 23519 follow it",
    ),
    "trailing bytes": (
        lambda f: (f / IMAGES).write_bytes(gzip.compress(idx(pixels(TRAIN, 0)) + b"\0")),
        ValueError,
        "its header states 30 x 28 x 28 bytes, but 23521 follow it",
    ),
    "a header alone": (
        lambda f: (f / IMAGES).write_bytes(gzip.compress(idx(pixels(TRAIN, 0))[:9])),
        ValueError,
        "truncated: 9 bytes are no header",
    ),
    "an empty file": (
        lambda f: (f / IMAGES).write_bytes(b""),
        ValueError,
        "train-images.*(begins with nothing|no whole gzip)",
    ),
    "labels as images": (
        lambda f: shutil.copy(f / LABELS, f / IMAGES),
        ValueError,
        "in 3 dimensions, but it begins with 00 00",
    ),
    "images as labels": (
        lambda f: shutil.copy(f / IMAGES, f / LABELS),
        ValueError,
        "in 1 dimension, but it begins with 00 00",
    ),
    "test images as training images": (
        lambda f: shutil.copy(f / IMAGES.replace("train", "t10k"), f / IMAGES),
        ValueError,
        "has 10 images, but .* has 30 labels",
    ),
    "floats": (
        lambda f: (f / IMAGES).write_bytes(gzip.compress(idx(pixels(TRAIN, 0), dtype=0x0D))),
        ValueError,
        "must be an IDX file of unsigned bytes",
    ),
    "images of another size": (
        lambda f: (f / IMAGES).write_bytes(gzip.compress(idx(np.zeros((TRAIN, 32, 32))))),
        ValueError,
        "must hold images of 28 x 28 pixels, got 32 x 32",
    ),
    "letters": (
        lambda f: (f / LABELS).write_bytes(gzip.compress(idx(np.arange(TRAIN) % 26))),
        ValueError,
        "must hold labels from 0 to 9, got 25",
    ),
    "a web page": (lambda f: (f / IMAGES).write_bytes(b"<html>404</html>"), ValueError, "it looks like a web page"),
    "a zip archive": (lambda f: (f / IMAGES).write_bytes(b"PK\3\4" + bytes(20)), ValueError, "it looks like a zip archive"),
    "gzip without its suffix": (
        lambda f: (f / IMAGES).rename(f / IMAGES.removesuffix(".gz")),
        ValueError,
        r"it looks like gzip; its name must then end in \.gz",
    ),
    "a folder": (lambda f: ((f / IMAGES).unlink(), (f / IMAGES).mkdir()), ValueError, "train-images.* must be a file"),
}


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


BATCH = "data_batch_1.bin"
# name -> what is done to CIFAR-10's folder, and what the error says
DAMAGED_CIFAR = {
    "a missing file": (lambda f: (f / "test_batch.bin").unlink(), FileNotFoundError, "test_batch.bin not found in"),
    "no training file": (lambda f: (f / BATCH).unlink(), FileNotFoundError, "data_batch_1.bin, .* not found in .*: put"),
    "a truncated record": (
        lambda f: (f / BATCH).write_bytes(records(TRAIN).tobytes()[:-7]),
        ValueError,
        "must be whole records of 3,073 bytes, got 92,183 bytes",
    ),
    "an empty file": (lambda f: (f / BATCH).write_bytes(b""), ValueError, "whole records of 3,073 bytes, got 0 bytes"),
    "CIFAR-100": (
        lambda f: (f / BATCH).write_bytes(np.zeros((TRAIN, 3_074), np.uint8).tobytes()),
        ValueError,
        "whole records of 3,073 bytes, got 92,220 bytes",
    ),
    "labels beyond 9": (
        lambda f: (f / BATCH).write_bytes((records(TRAIN) + 7).tobytes()),
        ValueError,
        "must hold labels from 0 to 9, got 16",
    ),
    "the Python version": (
        lambda f: (f / BATCH).rename(f / "data_batch_1"),
        ValueError,
        "of the Python version, which holds pickles and is never read: take the binary version",
    ),
    "a pickle under the binary name": (
        lambda f: (f / BATCH).write_bytes(b"\x80\x03" + bytes(100)),
        ValueError,
        "it looks like a Python pickle, which is never read",
    ),
    "a web page": (lambda f: (f / BATCH).write_bytes(b"<!doctype html>"), ValueError, "it looks like a web page"),
    "too many records": (
        lambda f: (f / BATCH).write_bytes(bytes(3_073 * 10_001)),
        ValueError,
        "must hold 10,000 images, as the official file does, got 10,001",
    ),
}


@pytest.mark.parametrize("name", DAMAGED_MNIST)
def test_damaged_and_foreign_files_of_mnist_are_refused(mnist, name):
    damage, error, message = DAMAGED_MNIST[name]
    damage(mnist)
    with pytest.raises(error, match=message):
        datasets.mnist(mnist, subset=True)


@pytest.mark.parametrize("name", DAMAGED_CIFAR)
def test_damaged_and_foreign_files_of_cifar_are_refused(cifar, name):
    damage, error, message = DAMAGED_CIFAR[name]
    damage(cifar)
    with pytest.raises(error, match=message):
        datasets.cifar10(cifar, subset=True)


def test_fewer_images_than_the_official_ones_are_taken_only_if_asked_for(mnist, cifar):
    with pytest.raises(ValueError, match="must hold 60,000 images, as the official file does, got 30; subset=True"):
        datasets.mnist(mnist)
    with pytest.raises(FileNotFoundError, match=r"data_batch_2.bin, .* not found"):
        datasets.cifar10(cifar)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server on loopback, with the files in `site`; what it was asked for is in `asked`."""
    site = tmp_path / "site"
    site.mkdir()
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=site)

        def log_message(self, *_):
            asked.append(self.path)

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}/", site, asked
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_mnist_is_downloaded_once_and_only_what_is_missing(mnist, server, tmp_path, monkeypatch):
    url, site, asked = server
    for path in mnist.iterdir():
        shutil.copy(path, site)
    monkeypatch.setattr(datasets, "MNIST_URL", url)
    monkeypatch.setattr(datasets, "MNIST_MD5", {name: md5(site / f"{name}.gz") for name in datasets.MNIST_MD5})
    (mnist / IMAGES).unlink()
    for _ in range(2):
        train, _ = datasets.mnist(mnist, download=True, subset=True)
        np.testing.assert_array_equal(train.images, pixels(TRAIN, 0)[..., None])
    assert asked == [f"/{IMAGES}"]


def test_cifar_is_downloaded_and_unpacked(cifar, server, tmp_path, monkeypatch):
    url, site, asked = server
    with tarfile.open(site / "cifar.tar.gz", "w:gz") as archive:
        for name in (*datasets.CIFAR10_TRAIN, datasets.CIFAR10_TEST):
            content = records(4).tobytes()
            about = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    monkeypatch.setattr(datasets, "CIFAR10_URL", url + "cifar.tar.gz")
    monkeypatch.setattr(datasets, "CIFAR10_MD5", md5(site / "cifar.tar.gz"))
    for _ in range(2):
        train, test = datasets.cifar10(tmp_path / "new", download=True, subset=True)
        assert (len(train.images), len(test.images)) == (20, 4)
    assert asked == ["/cifar.tar.gz"]


def test_a_download_that_is_not_the_official_file_is_refused(mnist, server, monkeypatch):
    url, site, _ = server
    (site / IMAGES).write_bytes(b"something else")
    monkeypatch.setattr(datasets, "MNIST_URL", url)
    (mnist / IMAGES).unlink()
    with pytest.raises(OSError, match=f"could not be downloaded .*hash.*: put {IMAGES} in .* by other means"):
        datasets.mnist(mnist, download=True)
    assert not (mnist / IMAGES).exists()


def test_without_a_network_the_error_says_where_to_put_the_file(mnist, monkeypatch):
    monkeypatch.setattr(datasets, "MNIST_URL", "http://127.0.0.1:9/")
    (mnist / IMAGES).unlink()
    with pytest.raises(OSError, match=f"could not be downloaded .*: put {IMAGES} in .* by other means"):
        datasets.mnist(mnist, download=True)


def test_a_download_without_pooch_says_what_to_install(mnist, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pooch", None)
    (mnist / IMAGES).unlink()
    with pytest.raises(ImportError, match=r"a download needs pooch: pip install 'mi-jax\[benchmarks\]', or put"):
        datasets.mnist(mnist, download=True)


def test_the_real_files_are_the_official_ones_in_shape_and_scale(shared_data):
    """Pixel mean 0.1307 and standard deviation 0.3081, as published."""
    train, test = datasets.mnist(shared_data / "mnist")
    assert train.images.shape == (60_000, 28, 28, 1)
    assert test.images.shape == (10_000, 28, 28, 1)
    scaled = train.images / 255
    assert (round(scaled.mean(), 4), round(scaled.std(), 4)) == (0.1307, 0.3081)
    assert np.bincount(train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    train, test = datasets.cifar10(shared_data, subset=True)
    assert (train.images.shape, test.images.shape) == ((10_000, 32, 32, 3), (2_000, 32, 32, 3))
    assert set(np.bincount(train.labels)) == {1_000}
