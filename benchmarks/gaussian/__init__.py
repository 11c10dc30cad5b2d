"""Section 6.1 of the paper: estimates while the true MI climbs a staircase, on the Gaussian and the Cubic task."""
