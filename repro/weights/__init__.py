"""Other people's weight files, one module a format."""
