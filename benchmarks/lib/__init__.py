"""What all benchmarks share: rows on disk, the runner, results pages, figures, the machine and command-line options."""
