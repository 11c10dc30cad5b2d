"""What a borrowed accelerator is used for: checks against a CPU, then the rows that are worth most, within ten minutes."""
