"""What a target model is: its files, its layers, its head, and the engine that runs it."""
