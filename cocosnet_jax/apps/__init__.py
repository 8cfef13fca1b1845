"""Applications of the model, and demonstrations of them."""
