"""How the variance of SMILE falls with tau, with many seeds; `kills` proves that a killed study ends with the same bits."""
