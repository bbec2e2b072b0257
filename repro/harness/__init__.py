"""Training, evaluation, timing, and the record of what ran."""
