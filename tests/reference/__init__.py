"""Definitions read slowly: plain loops over what the package computes at once."""
