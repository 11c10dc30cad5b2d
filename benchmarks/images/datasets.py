"""MNIST and CIFAR-10, read from the files of their official downloads.

The formats are checked byte for byte, and nothing is ever unpickled. With `download=True` files that are missing are fetched
by pooch, which checks them against the official checksums: `pip install 'mi-jax[benchmarks]'`.
"""

import functools
import gzip
import math
import os
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
# name -> checksum of the official compressed file
MNIST_MD5 = {
    "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
}
MNIST_SIZES = {"train": 60_000, "t10k": 10_000}
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
CIFAR10_FOLDER = "cifar-10-batches-bin"
CIFAR10_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
CIFAR10_TEST = "test_batch.bin"
CIFAR10_SIZE = 10_000  # records in each file
CIFAR10_PIXELS = 3 * 32 * 32
CLASSES = 10
UNSIGNED_BYTES = 0x08


class Images(NamedTuple):
    """Images and their labels, as bytes.

    Attributes:
      images: (n, height, width, channels) pixels.
      labels: (n,) from 0 to 9.
    """

    images: UInt8[np.ndarray, "n h w c"]
    labels: UInt8[np.ndarray, " n"]


class Dataset(NamedTuple):
    """A training set and a test set.

    Attributes:
      train: `Images`.
      test: `Images`.
    """

    train: Images
    test: Images


def mnist(folder: str | Path, *, download: bool = False, subset: bool = False) -> Dataset:
    """MNIST, from its four IDX files, compressed (`.gz`) or not.

    Args:
      folder: where the files are: `train-images-idx3-ubyte.gz` and so on.
      download: fetch those that are missing into it.
      subset: accept fewer images than the official 60,000 and 10,000.

    Returns:
      A `Dataset` of (n, 28, 28, 1) images.

    Raises:
      FileNotFoundError: if a file is missing; the message says where to put it.
      ValueError: if a file is truncated, damaged, or not what its name says.
      ImportError: if pooch is missing for a download.
      OSError: if a download fails, or is not the official file.

    Example:
      >>> from benchmarks.images import datasets
      >>> train, test = datasets.mnist("data/mnist")  # doctest: +SKIP
      >>> train.images.shape, test.labels.shape  # doctest: +SKIP
      ((60000, 28, 28, 1), (10000,))

    Source: LeCun, Cortes & Burges, "The MNIST database of handwritten digits", for the format.
    """
    folder = Path(folder)
    paths = {name: _either(folder, name) for name in MNIST_MD5}
    if download:
        for name in [name for name, path in paths.items() if path is None]:
            paths[name] = _fetched(MNIST_URL + f"{name}.gz", MNIST_MD5[name], folder, f"{name}.gz")
    found = _all_there(folder, paths, "MNIST's four IDX files (or their .gz)")
    return Dataset(*(_mnist_part(found, part, subset) for part in MNIST_SIZES))


def _either(folder: Path, name: str) -> Path | None:
    """A file's path, compressed or not."""
    return next((path for path in (folder / f"{name}.gz", folder / name) if path.exists()), None)


def _all_there(folder: Path, paths: Mapping[str, Path | None], what: str) -> dict[str, Path]:
    missing = [name for name, path in paths.items() if path is None]
    if missing:
        here = "" if folder.is_dir() else ", which is no folder"
        remedy = f"put {what} there, or have them downloaded (download=True)"
        raise FileNotFoundError(f"{', '.join(missing)} not found in {folder}{here}: {remedy}")
    return {name: path for name, path in paths.items() if path is not None}


def _mnist_part(paths: Mapping[str, Path], part: str, subset: bool) -> Images:
    images_at, labels_at = paths[f"{part}-images-idx3-ubyte"], paths[f"{part}-labels-idx1-ubyte"]
    images, labels = _idx(images_at, 3), _idx(labels_at, 1)
    if images.shape[1:] != (28, 28):
        raise ValueError(f"{images_at} must hold images of 28 x 28 pixels, got {' x '.join(map(str, images.shape[1:]))}")
    _check_labels(labels, labels_at)
    if len(images) != len(labels):
        raise ValueError(f"{images_at} has {len(images)} images, but {labels_at} has {len(labels)} labels")
    _check_number(len(images), MNIST_SIZES[part], images_at, subset)
    return Images(images[..., None], labels)


def _idx(path: Path, dimensions: int) -> UInt8[np.ndarray, "..."]:
    """An IDX file of unsigned bytes: two zeros, the type, the number of dimensions, each as 32 bits, and the bytes."""
    content = _content(path)
    what = f"{path} must be an IDX file of unsigned bytes in {dimensions} dimension{'s' if dimensions > 1 else ''}"
    header = 4 + 4 * dimensions
    if content[:4] != bytes([0, 0, UNSIGNED_BYTES, dimensions]):
        raise ValueError(f"{what}, but it begins with {content[:4].hex(' ') or 'nothing'}{_looks_like(content)}")
    if len(content) < header:
        raise ValueError(f"{what}, but it is truncated: {len(content)} bytes are no header")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != math.prod(shape):
        stated = " x ".join(map(str, shape))
        raise ValueError(f"{what}: its header states {stated} bytes, but {len(content) - header} follow it")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _content(path: Path) -> bytes:
    """A file's bytes, decompressed if its name says so."""
    if not path.is_file():
        raise ValueError(f"{path} must be a file")
    content = path.read_bytes()
    if path.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is no whole gzip file ({error}){_looks_like(content)}") from error


def _looks_like(content: bytes) -> str:
    """What a foreign file seems to be, as the end of a message."""
    signatures = {
        b"\x1f\x8b": "gzip; its name must then end in .gz",
        b"PK": "a zip archive",
        b"\x80": "a Python pickle, which is never read",
        b"<": "a web page",
        b"\x93NUMPY": "a .npy file",
        b"\x89PNG": "a PNG image",
    }
    return next((f"; it looks like {kind}" for start, kind in signatures.items() if content.lstrip().startswith(start)), "")


def _check_labels(labels: np.ndarray, path: Path) -> None:
    if labels.size and labels.max() >= CLASSES:
        raise ValueError(f"{path} must hold labels from 0 to {CLASSES - 1}, got {labels.max()}")


def _check_number(number: int, official: int, path: Path, subset: bool) -> None:
    if not number or number > official or (number < official and not subset):
        hint = "; subset=True accepts fewer" if 0 < number < official else ""
        raise ValueError(f"{path} must hold {official:,} images, as the official file does, got {number:,}{hint}")


def cifar10(folder: str | Path, *, download: bool = False, subset: bool = False) -> Dataset:
    """CIFAR-10, from the *binary* version: records of a label and 3,072 bytes.

    Args:
      folder: where `data_batch_1.bin` to `data_batch_5.bin` and `test_batch.bin` are, or the folder around their
        `cifar-10-batches-bin`.
      download: fetch and unpack the archive into it if a file is missing.
      subset: accept fewer than five training files, and fewer than 10,000 whole records in a file.

    Returns:
      A `Dataset` of (n, 32, 32, 3) images.

    Raises:
      FileNotFoundError: if a file is missing; the message says where to put it.
      ValueError: if a file is truncated, damaged, or not what its name says.
      ImportError: if pooch is missing for a download.
      OSError: if a download fails, or is not the official file.

    Example:
      >>> from benchmarks.images import datasets
      >>> train, test = datasets.cifar10("data")  # doctest: +SKIP
      >>> train.images.shape  # doctest: +SKIP
      (50000, 32, 32, 3)

    Source: Krizhevsky (2009), "Learning multiple layers of features from tiny images"; the format is on its page.
    """
    folder = Path(folder)
    inner = folder / CIFAR10_FOLDER
    place = inner if inner.is_dir() else folder
    paths = _existing(place)
    if download and None in paths.values():
        place = _unpacked(folder)
        paths = _existing(place)
    pickled = place / "data_batch_1"
    if None in paths.values() and pickled.exists():
        raise ValueError(
            f"{pickled} is of the Python version, which holds pickles and is never read: take the binary version"
        )
    if subset and paths[CIFAR10_TRAIN[0]] is not None:
        paths = {name: path for name, path in paths.items() if path is not None or name == CIFAR10_TEST}
    found = _all_there(place, paths, "the files of CIFAR-10's binary version")
    parts = {name: _records(path, subset) for name, path in found.items()}
    return Dataset(_joined(part for name, part in parts.items() if name != CIFAR10_TEST), parts[CIFAR10_TEST])


def _existing(folder: Path) -> dict[str, Path | None]:
    names = (*CIFAR10_TRAIN, CIFAR10_TEST)
    return {name: folder / name if (folder / name).exists() else None for name in names}


def _records(path: Path, subset: bool) -> Images:
    content = np.frombuffer(_content(path), np.uint8)
    length = 1 + CIFAR10_PIXELS
    if not content.size or content.size % length:
        looks = _looks_like(content[:64].tobytes())
        raise ValueError(f"{path} must be whole records of {length:,} bytes, got {content.size:,} bytes{looks}")
    records = content.reshape(-1, length)
    _check_labels(records[:, 0], path)
    _check_number(len(records), CIFAR10_SIZE, path, subset)
    return Images(np.ascontiguousarray(records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), records[:, 0].copy())


def _joined(parts: Iterable[Images]) -> Images:
    return Images(*map(np.concatenate, zip(*parts, strict=True)))


def _unpacked(folder: Path) -> Path:
    """The folder of the archive's files, fetched and unpacked: each file written whole or not at all."""
    archive = _fetched(CIFAR10_URL, CIFAR10_MD5, folder, "cifar-10-binary.tar.gz")
    place = folder / CIFAR10_FOLDER
    place.mkdir(exist_ok=True)
    with tarfile.open(archive) as members:
        for name in (*CIFAR10_TRAIN, CIFAR10_TEST):
            member = members.extractfile(f"{CIFAR10_FOLDER}/{name}")
            assert member is not None, name
            scratch = place / f"{name}.{os.getpid()}.tmp"
            scratch.write_bytes(member.read())
            os.replace(scratch, place / name)
    return place


def _fetched(url: str, md5: str, folder: Path, name: str) -> Path:
    """A file from the network, checked; in the folder afterwards."""
    try:
        import pooch
    except ImportError as error:
        raise ImportError(f"a download needs pooch: pip install 'mi-jax[benchmarks]', or put {name} in {folder}") from error
    try:
        return Path(pooch.retrieve(url, known_hash=f"md5:{md5}", fname=name, path=folder))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise OSError(f"{url} could not be downloaded ({reason}): put {name} in {folder} by other means") from error


READERS: dict[str, Callable[..., Dataset]] = {"mnist": mnist, "cifar10": functools.partial(cifar10, subset=True)}


def read(name: str, folder: Path, download: bool = False) -> Dataset:
    """The dataset of this name; MNIST's files may lie in `folder` or in the folder `mnist` in it.

    Args:
      name: one of `READERS`.
      folder: the folder of the files.
      download: fetch files that are missing.

    Raises:
      ValueError: if a file is damaged.
      FileNotFoundError: if one is missing.
    """
    inner = folder / name
    return READERS[name](inner if name == "mnist" and inner.is_dir() else folder, download=download)
