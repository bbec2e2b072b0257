"""One training loop, one evaluation, one prediction path, and how all of them are timed and kept."""
