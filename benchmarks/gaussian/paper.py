"""The numbers that the paper prints, and those of an independent implementation, as data to set ours beside."""

from collections.abc import Mapping

LEVELS = (2.0, 4.0, 6.0, 8.0, 10.0)

# Table 2 of Song & Ermon (2020), joint critic: task -> read-out -> statistic -> a number for each of LEVELS. Bias is |bias|.
# The paper's MSE is not bias² + variance in many cells (NWJ, Gaussian, MI 10: 2.97² + 99.0 = 107.8, printed 28.43).
TABLE_2: Mapping[str, Mapping[str, Mapping[str, tuple[float, ...]]]] = {
    "gaussian": {
        "cpc": {
            "bias": (0.25, 0.99, 2.31, 4.00, 5.89),
            "variance": (0.04, 0.04, 0.02, 0.01, 0.00),
            "mse": (0.10, 1.02, 5.33, 16.00, 34.66),
        },
        "nwj": {
            "bias": (0.12, 0.30, 0.75, 2.30, 2.97),
            "variance": (0.06, 0.22, 1.36, 16.50, 99.0),
            "mse": (0.07, 0.32, 2.19, 33.37, 28.43),
        },
        "smile_1": {
            "bias": (0.15, 0.30, 0.32, 0.18, 0.03),
            "variance": (0.05, 0.12, 0.20, 0.28, 0.34),
            "mse": (0.08, 0.21, 0.30, 0.32, 0.31),
        },
        "smile_5": {
            "bias": (0.13, 0.11, 0.19, 0.54, 0.86),
            "variance": (0.05, 0.11, 0.19, 0.31, 0.51),
            "mse": (0.07, 0.13, 0.22, 0.57, 1.26),
        },
        "smile_10": {
            "bias": (0.14, 0.21, 0.22, 0.11, 0.19),
            "variance": (0.05, 0.13, 0.31, 0.69, 1.35),
            "mse": (0.07, 0.18, 0.36, 0.67, 1.33),
        },
        "smile_inf": {
            "bias": (0.15, 0.21, 0.22, 0.12, 0.22),
            "variance": (0.05, 0.14, 0.36, 0.75, 1.54),
            "mse": (0.08, 0.19, 0.40, 0.76, 1.62),
        },
    },
    "cubic": {
        "cpc": {
            "bias": (0.72, 1.48, 2.63, 4.20, 5.99),
            "variance": (0.03, 0.04, 0.03, 0.01, 0.01),
            "mse": (0.55, 2.22, 6.95, 17.62, 35.91),
        },
        "nwj": {
            "bias": (0.66, 1.21, 2.04, 3.21, 4.70),
            "variance": (0.04, 0.10, 0.41, 0.93, 3.23),
            "mse": (0.47, 1.55, 4.56, 11.13, 27.00),
        },
        "smile_1": {
            "bias": (0.47, 0.77, 1.16, 1.64, 2.16),
            "variance": (0.04, 0.10, 0.14, 0.20, 0.30),
            "mse": (0.26, 0.69, 1.49, 2.90, 4.98),
        },
        "smile_5": {
            "bias": (0.71, 1.22, 1.55, 1.84, 2.16),
            "variance": (0.04, 0.07, 0.12, 0.18, 0.26),
            "mse": (0.54, 1.56, 2.53, 3.58, 4.92),
        },
        "smile_10": {
            "bias": (0.70, 1.28, 1.83, 2.44, 3.02),
            "variance": (0.03, 0.10, 0.21, 0.46, 0.79),
            "mse": (0.52, 1.75, 3.54, 6.41, 9.91),
        },
        "smile_inf": {
            "bias": (0.71, 1.29, 1.82, 2.35, 2.81),
            "variance": (0.03, 0.12, 0.24, 0.65, 0.94),
            "mse": (0.54, 1.75, 3.55, 6.09, 8.81),
        },
    },
}

# An independent implementation, one seed, joint critic, bias as estimate - truth, the first 1,000 iterations of each stage
# dropped; (task, hidden layers) -> read-out -> statistic.
INDEPENDENT: Mapping[tuple[str, int], Mapping[str, Mapping[str, tuple[float, ...]]]] = {
    ("gaussian", 2): {
        "cpc": {"bias": (-0.25, -0.99, -2.30, -4.00, -5.89), "variance": (0.04, 0.04, 0.02, 0.01, 0.00)},
        "nwj": {"bias": (-0.12, -0.27, -0.70, -1.51, -2.55), "variance": (0.06, 0.22, 1.6, 7.0, 22.0)},
        "smile_1": {"bias": (0.20, 0.30, 0.23, 0.05, -0.31), "variance": (0.06, 0.11, 0.14, 0.17, 0.20)},
        "smile_5": {"bias": (-0.13, -0.12, 0.04, 0.31, 0.57), "variance": (0.05, 0.11, 0.16, 0.23, 0.35)},
        "smile_inf": {"bias": (-0.14, -0.23, -0.30, -0.29, -0.17), "variance": (0.06, 0.13, 0.26, 0.60, 1.25)},
    },
    ("cubic", 2): {
        "cpc": {"bias": (-0.74, -1.49, -2.64, -4.20, -5.99)},
        "smile_1": {"bias": (-0.45, -0.81, -1.14, -1.57, -2.06)},
        "smile_5": {"bias": (-0.74, -1.27, -1.57, -1.80, -1.95), "variance": (0.04, 0.07, 0.12, 0.18, 0.27)},
    },
    ("gaussian", 3): {
        "smile_5": {"bias": (-0.16, -0.13, 0.17, 0.52, 0.89), "variance": (0.05, 0.11, 0.19, 0.30, 0.49)},
    },
}
