"""How rows are cut into windows."""

from opengte.bulk import RowSource
from opengte.bulk.windows import row_windows


def test_windows_are_cut_by_rows_and_characters():
    rows = RowSource.from_texts(["aaa", "bb", "c" * 9, "d", "e", "f"]).rows()
    sizes = [[item.number for item in w] for w in row_windows(rows, 3, 5)]
    assert sizes == [[1, 2], [3], [4, 5, 6]]
