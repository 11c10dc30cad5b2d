import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from mi_jax.estimation.columns import fit_columns
from mi_jax.estimation.components import unmix
from mi_jax.estimation.inputs import as_rows

TRANSFORMS = ("ranks", "standardize", "none", "components")  # the last is tried where each column is mapped alone
every_transform = pytest.mark.parametrize("transform", TRANSFORMS[:3])
rng = np.random.default_rng(0)


def transformed(rows, transform="ranks", name="x"):
    return fit_columns(rows, name, transform)(rows)


def normal_scores(column):
    """The formula, with SciPy's ranks: of ties the average rank."""
    return stats.norm.ppf((stats.rankdata(column) - 0.5) / len(column))


@pytest.mark.parametrize(
    "column",
    [
        rng.standard_normal(100),
        rng.standard_cauchy(101),
        rng.integers(0, 5, 200),
        rng.random(50) < 0.3,
        np.repeat([1.0, 2.0], [99, 1]),
        np.array([3.0, 1.0]),
        np.float32(rng.standard_normal(64)),
        np.array([-1e300, 0.0, 5e-324, 1.0, 1e300]),
    ],
    ids=lambda column: f"{column.dtype}-{column.size}",
)
def test_ranks_are_scipys_normal_scores(column):
    ours = transformed(column)
    assert ours.shape == (column.size, 1)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours[:, 0], normal_scores(column), rtol=1e-6, atol=1e-7)


@hypothesis.given(hnp.arrays(np.float64, st.integers(2, 30), elements=st.floats(-1e300, 1e300, allow_subnormal=True)))
def test_ranks_keep_order_and_ties(column):
    hypothesis.assume(column.min() < column.max())
    ours = fit_columns(column, "x")(column)[:, 0]
    np.testing.assert_allclose(ours, normal_scores(column), rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(
        np.sign(np.subtract.outer(ours, ours)), np.greater.outer(column, column) * 2.0 - 1 + np.equal.outer(column, column)
    )


@pytest.mark.parametrize("increasing", [np.exp, lambda x: x**3, lambda x: 1e200 * x - 7, np.arctan, np.float32])
def test_no_increasing_map_changes_the_ranks(increasing):
    x = np.random.default_rng(1).uniform(-3, 3, (500, 2)).round(3)
    np.testing.assert_array_equal(transformed(increasing(x)), transformed(x))


def test_a_decreasing_map_changes_the_sign():
    x = np.random.default_rng(1).standard_normal(500)
    np.testing.assert_allclose(transformed(-(x**3)), -transformed(x), atol=1e-6)


def test_standardized_columns_are_numpys():
    x = np.random.default_rng(1).gamma(2.0, size=(300, 3)) * [1.0, 1e3, 1e-3] + [0.0, 1e6, -5.0]
    ours = transformed(x, "standardize")
    np.testing.assert_allclose(ours, (x - x.mean(axis=0)) / x.std(axis=0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(transformed(3 * x + 10, "standardize"), ours, rtol=1e-5, atol=1e-5)


def test_none_leaves_the_values():
    x = np.random.default_rng(1).standard_normal((100, 2))
    np.testing.assert_array_equal(transformed(x, "none"), x.astype(np.float32))
    np.testing.assert_array_equal(fit_columns(x, "x", "none")(5 * x), (5 * x).astype(np.float32))


@pytest.mark.parametrize("size", [1e300, 1e-300, 1.7e308])
@pytest.mark.parametrize("transform", ["ranks", "standardize"])
def test_values_of_any_size_are_brought_to_unit_scale(transform, size):
    x = np.random.default_rng(1).uniform(-1, 1, 100)
    np.testing.assert_allclose(transformed(size * x, transform), transformed(x, transform), rtol=1e-5, atol=1e-6)


def test_one_value_of_1e300_leaves_the_ranks_of_the_others():
    x = np.random.default_rng(1).standard_normal(100)
    far = np.where(np.arange(100) == np.argmax(x), 1e300, x)
    np.testing.assert_array_equal(transformed(far), transformed(x))


def test_what_does_not_fit_float32_is_refused():
    with pytest.raises(ValueError, match=r"x must be within float32 once transformed, got entries up to 1e\+300"):
        transformed(np.array([0.0, 1.0, 1e300]), "none")
    with pytest.raises(ValueError, match="y must be within float32 once transformed"):
        fit_columns(np.arange(3.0), "y")(np.array([1e300]))


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_new_rows_between_and_beyond_the_old_ones_keep_their_order(transform):
    seen = np.array([-2.0, -1.5, 0.0, 0.1, 0.1, 4.0, 10.0])
    new = np.sort(np.concatenate([np.linspace(-50, 50, 201), seen]))
    columns = fit_columns(seen, "x", transform)
    ours = np.float64(columns(new)[:, 0])
    assert (np.diff(ours)[np.diff(new) > 0] > 0).all()
    # Between two values seen halfway, and beyond the ends with the slope of the whole.
    known = np.float64(columns(seen)[:, 0])
    np.testing.assert_allclose(columns(np.array([-1.75])), (known[0] + known[1]) / 2, rtol=1e-5)
    slope = (known[-1] - known[0]) / 12
    np.testing.assert_allclose(columns(np.array([13.0, -3.0]))[:, 0], [known[-1] + 3 * slope, known[0] - slope], rtol=1e-5)


@hypothesis.given(
    hnp.arrays(np.float64, 12, elements=st.floats(-1e300, 1e300, allow_subnormal=True)), st.sampled_from(TRANSFORMS[:2])
)
def test_no_new_row_overtakes_another(values, transform):
    """By more than the rounding of an interpolation between images of about 1."""
    seen, new = values[:6], np.sort(np.clip(values, values[:6].min(), values[:6].max()))
    hypothesis.assume(seen.min() < seen.max())
    assert (np.diff(fit_columns(seen, "x", transform)(new)[:, 0]) >= -1e-15).all()


@every_transform
def test_each_row_is_transformed_alone(transform):
    x = np.random.default_rng(1).standard_normal((50, 3))
    columns = fit_columns(x, "x", transform)
    whole = columns(x)
    np.testing.assert_array_equal(columns(x[7:9]), whole[7:9])
    order = np.random.default_rng(2).permutation(50)
    np.testing.assert_array_equal(columns(x[order]), whole[order])
    np.testing.assert_array_equal(transformed(x[order], transform), whole[order])


@every_transform
def test_constant_and_duplicated_columns_are_left_out(transform):
    a, b = np.random.default_rng(1).standard_normal((2, 40))
    a[0] = 0.0
    minus = np.where(a == 0, -0.0, a)
    x = np.stack([np.full(40, 3.0), a, b, a, np.zeros(40), b, minus, -a], axis=1)
    columns = fit_columns(x, "x", transform)
    np.testing.assert_array_equal(columns.kept, [1, 2, 7])
    np.testing.assert_array_equal(columns.constant, [0, 4])
    np.testing.assert_array_equal(columns.duplicated, [3, 5, 6])
    np.testing.assert_array_equal(columns(x), transformed(np.stack([a, b, -a], axis=1), transform))


def test_components_are_the_normal_scores_of_unmixed_columns():
    x = np.random.default_rng(1).laplace(size=(500, 3)) @ np.array([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0], [1.0, -1.0, 0.0]])
    columns = fit_columns(x, "x", "components")
    np.testing.assert_allclose(columns.unmixing, unmix(x), rtol=1e-9)
    np.testing.assert_allclose(columns(x), transformed(x @ columns.unmixing), atol=1e-6)
    np.testing.assert_array_equal(columns(x[7:9]), columns(x)[7:9])


def test_components_of_what_varies():
    x = np.random.default_rng(1).laplace(size=(500, 2))
    with_others = np.stack([x[:, 0], np.ones(500), x[:, 1], x[:, 0]], axis=1)
    np.testing.assert_array_equal(transformed(with_others, "components"), transformed(x, "components"))


@pytest.mark.parametrize("x", [rng.standard_normal((50, 2)) @ rng.standard_normal((2, 3)), rng.standard_normal((4, 4))])
def test_components_of_columns_that_depend_on_one_another(x):
    with pytest.raises(
        ValueError, match=r"x must have columns of which none is .* of \d continuous columns: leave a column out"
    ):
        fit_columns(x, "x", "components")


def test_ties_are_only_ranked():
    x = np.random.default_rng(1).integers(-1, 2, size=(500, 3))
    np.testing.assert_array_equal(transformed(x, "components"), transformed(x))


def test_nothing_is_left_out_of_columns_that_differ():
    columns = fit_columns(np.random.default_rng(1).standard_normal((40, 3)), "x")
    np.testing.assert_array_equal(columns.kept, [0, 1, 2])
    assert (columns.constant.size, columns.duplicated.size) == (0, 0)
    assert (columns.name, columns.shape) == ("x", (3,))


@pytest.mark.parametrize("shape", [(30,), (30, 1), (30, 2, 3), (30, 4, 1, 2)])
def test_rows_of_any_shape_are_flattened(shape):
    x = np.random.default_rng(1).standard_normal(shape)
    columns = fit_columns(x, "x")
    assert columns.shape == shape[1:]
    np.testing.assert_array_equal(columns(x), transformed(x.reshape(30, -1)))
    np.testing.assert_array_equal(as_rows(x, "x"), x.reshape(30, -1))


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint16, np.int64, np.float16, np.float32, np.longdouble, jnp.bfloat16])
def test_numbers_of_every_dtype_are_accepted(dtype):
    x = np.array([1, 0, 1, 0, 0])
    found = as_rows(x.astype(dtype), "x")
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, x[:, None])
    np.testing.assert_array_equal(transformed(x.astype(dtype)), transformed(x))


@pytest.mark.parametrize("dtype", [bool, jnp.int32, jnp.float32, jnp.bfloat16, jnp.float16])
def test_jax_arrays_are_accepted(dtype):
    x = np.array([1, 0, 1, 0, 0])
    np.testing.assert_array_equal(transformed(jnp.asarray(x, dtype)), transformed(x))


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([1.0, 2.0], TypeError, "x must be an array of NumPy or JAX, got list"),
        (3.0, TypeError, "x must be an array of NumPy or JAX, got float"),
        (None, TypeError, "x must be an array of NumPy or JAX, got NoneType"),
        (np.array(3.0), ValueError, r"x must have an axis of samples, got shape \(\)"),
        (jnp.array(3.0), ValueError, r"x must have an axis of samples, got shape \(\)"),
        (np.array([None, 1.0]), TypeError, "x must hold floats, integers or bools, got dtype object"),
        (np.array(["a", "b"]), TypeError, "x must hold floats, integers or bools, got dtype <U1"),
        (np.array([1j, 2.0]), TypeError, "x must hold floats, integers or bools, got dtype complex128"),
        (jnp.array([1j, 2.0]), TypeError, "x must hold floats, integers or bools, got dtype complex64"),
        (np.array(["2026-01-01"], "datetime64[D]"), TypeError, r"integers or bools, got dtype datetime64\[D\]"),
        (np.array([1, "NaT"], "timedelta64[s]"), TypeError, r"integers or bools, got dtype timedelta64\[s\]"),
        (jax.random.split(jax.random.key(0), 3), TypeError, "integers or bools, got dtype key<"),
        (np.zeros((0, 2)), ValueError, r"x must hold at least one sample and one column, got shape \(0, 2\)"),
        (np.zeros((4, 0)), ValueError, r"x must hold at least one sample and one column, got shape \(4, 0\)"),
        (
            np.array([[0.0, 1.0], [2.0, np.nan], [np.inf, 3.0]]),
            ValueError,
            "x must be finite, got 2 entries that are not, the first nan in row 1, column 1; leave such rows out",
        ),
        (jnp.array([0.0, -jnp.inf]), ValueError, "got 1 entries that are not, the first -inf in row 1, column 0"),
        (
            np.ma.masked_array([1.0, 99.0], [False, True]),
            ValueError,
            "x must have no masked entries, got 1; leave such rows out",
        ),
        (np.full((5, 2), 3.0), ValueError, "x must vary, got 2 constant columns: its mutual information is 0"),
        (np.array([1.0]), ValueError, "x must vary, got 1 constant columns"),
    ],
)
def test_bad_rows(rows, error, message):
    with pytest.raises(error, match=message):
        fit_columns(rows, "x")


def test_rows_without_values_are_refused():
    with pytest.raises(TypeError, match="x must be an array with values, not traced by jit"):
        jax.jit(lambda x: as_rows(x, "x"))(jnp.zeros(3))


@pytest.mark.parametrize("transform", ["rank", None, 3, ["ranks"]])
def test_an_unknown_transform(transform):
    with pytest.raises(ValueError, match="transform must be one of ranks, components, standardize, none, got "):
        fit_columns(np.arange(3.0), "x", transform)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((2, 3)), r"x must have rows of shape \(2,\), got \(3,\)"),
        (np.zeros(2), r"x must have rows of shape \(2,\), got \(\)"),
        (np.zeros((2, 1, 2)), r"x must have rows of shape \(2,\), got \(1, 2\)"),
        (np.array([[0.0, np.nan]]), "x must be finite, got 1 entries"),
    ],
)
def test_bad_new_rows(rows, message):
    columns = fit_columns(np.random.default_rng(0).standard_normal((10, 2)), "x")
    with pytest.raises(ValueError, match=message):
        columns(rows)
