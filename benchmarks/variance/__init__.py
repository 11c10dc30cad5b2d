"""The law of variance, measured at the exact log ratio; `scaling` measures the speed and memory of this benchmark."""
