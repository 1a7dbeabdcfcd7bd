"""Comparisons of forget methods with retrained models."""
