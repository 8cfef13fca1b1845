"""What is made of the model: programs for people."""
