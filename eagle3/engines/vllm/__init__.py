"""vLLM as a capture engine: arguments and run (`engine`), and what it calls (`connector`)."""
