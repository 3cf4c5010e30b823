"""What a target model is: its files, its tokenizer, its layers and its head."""
