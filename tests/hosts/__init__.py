"""Hosts that the how-tos quote."""
