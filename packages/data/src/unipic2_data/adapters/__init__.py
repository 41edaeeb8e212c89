"""Readers of foreign data layouts: each yields canonical samples."""
