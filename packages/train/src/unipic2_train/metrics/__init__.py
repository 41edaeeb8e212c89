"""Scores as torchmetrics, synchronised over ranks."""
