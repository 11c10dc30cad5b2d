"""Files of samples, for tests."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def save(folder, kind, x, y):
    """x and y in files of a kind, and the names that `read_samples` takes for them."""
    if kind == ".npz":
        np.savez(folder / "data.npz", x=x, y=y)
        return [folder / "data.npz"], {}
    if kind == ".npy":
        np.save(folder / "x.npy", x)
        np.save(folder / "y.npy", y)
        return [folder / "x.npy", folder / "y.npy"], {}
    columns = {f"x{place}": column for place, column in enumerate(x.T)} | {"y": y}
    if kind == ".parquet":
        pq.write_table(
            pa.table({name: pa.array(list(column), from_pandas=True) for name, column in columns.items()}),
            folder / "d.parquet",
        )
        return [folder / "d.parquet"], {"x": ["x*"]}
    rows = [",".join("" if np.isnan(value) else str(value) for value in row) for row in zip(*columns.values(), strict=True)]
    (folder / "d.csv").write_text("\n".join([",".join(columns), *rows]) + "\n")
    return [folder / "d.csv"], {"x": ["x*"]}
