import pytest

from mi_jax import _files


def test_a_file_takes_the_place_of_another(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with _files.replace(path, "w") as file:
        file.write("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_after_an_error_the_file_is_as_it_was(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(TypeError), _files.replace(path) as file:
        file.write("text for a binary file")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
