"""Every preset as data."""
