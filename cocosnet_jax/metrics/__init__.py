"""Measurements of translations."""
