"""Drawn scenes: layouts, styles, and their drawing. TensorFlow is not needed here."""
