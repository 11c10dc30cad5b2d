from benchmarks.lib import page


def test_a_page_is_parts_with_an_empty_line_between(tmp_path):
    path = page.write(tmp_path / "new" / "page.md", ["# Title\n", page.table([["a", "1.50"]], ["", "value"]), "End."])
    assert path.read_text() == "# Title\n\n|    | value   |\n|----|---------|\n| a  | 1.50    |\n\nEnd.\n"


def test_tables_and_lists_that_are_empty_say_so():
    assert page.table([], ["a"]) == "None."
    assert page.listing([]) == "None."
    assert page.listing(["one", "two"]) == "- one\n- two"
