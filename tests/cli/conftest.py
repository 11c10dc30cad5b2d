"""What tests of the command line share."""

import pytest


@pytest.fixture
def write(tmp_path):
    """A text file of this name."""

    def write(text, name="data.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write
