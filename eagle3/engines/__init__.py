"""What runs the target: for its hidden states, and for its answers."""
