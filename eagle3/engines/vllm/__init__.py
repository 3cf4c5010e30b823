"""vLLM as a capture engine: its arguments and its run (`engine`), and what it calls
(`connector`)."""
