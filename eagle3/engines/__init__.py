"""The engines that run the target, for its hidden states or its answers."""
