"""Whole services that embed the library."""
