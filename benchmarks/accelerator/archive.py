"""One tar of result rows, for a machine from which few files come back."""

import gzip
import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

from benchmarks.lib import machine, rows


class Archive:
    """A tar of rows, each compressed alone. It is written anew, whole or not at all, whenever a row is added.

    Args:
      path: the tar. If it is there, its rows are kept.
      folder: the folder that the rows' names in the tar are relative to.
    """

    def __init__(self, path: Path, folder: Path):
        self.path, self.folder = path, folder
        self.members: dict[str, bytes] = {}
        if path.exists():
            try:
                with tarfile.open(path) as tar:
                    for member in tar:
                        file = tar.extractfile(member)
                        assert file is not None, "an archive holds files only"
                        self.members[member.name] = file.read()
            except tarfile.TarError as error:
                raise ValueError(f"{path} is not a whole archive of rows ({error})") from error

    def add_missing(self, folders: Iterable[str]) -> None:
        """Add the rows in these folders that this code made on this device, as of a run that was killed in between."""
        here = machine.environment()
        for folder in folders:
            for file in sorted((self.folder / folder / "rows").glob("*.json")):
                made = json.loads(file.read_text()).get("environment", {})
                ours = all(made.get(name) == here[name] for name in ("commit", "device_kind", "machine"))
                if ours and self._name(file) not in self.members:
                    self.add(file)

    def _name(self, row: Path) -> str:
        return f"{row.relative_to(self.folder)}.gz"

    def add(self, row: Path) -> None:
        """Add a row's file."""
        self.members[self._name(row)] = gzip.compress(row.read_bytes(), mtime=0)
        whole = io.BytesIO()
        with tarfile.open(fileobj=whole, mode="w") as tar:
            for name, content in self.members.items():
                about = tarfile.TarInfo(name)
                about.size = len(content)
                tar.addfile(about, io.BytesIO(content))
        rows.write_whole(self.path, whole.getvalue())

    def device(self, default: str) -> str:
        """The accelerator that the rows are of, as their folders name it; the default if there are none."""
        folders = {name.split("/")[0] for name in self.members}
        return next((folder.partition("-")[2] for folder in sorted(folders) if folder.startswith("accelerator")), default)

    def unpack(self) -> list[Path]:
        """Write the rows that are not there yet into the folder; returns their paths."""
        written = []
        for name, content in self.members.items():
            target = self.folder / name.removesuffix(".gz")
            if not target.resolve().is_relative_to(self.folder.resolve()):
                raise ValueError(f"{self.path} names a file outside of its folder: {name}")
            if not target.exists():
                rows.write_whole(target, gzip.decompress(content))
                written.append(target)
        return written
