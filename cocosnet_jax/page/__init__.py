"""The web page: what it does with files and strokes, how it looks, and what it keeps out."""
