"""SGLang as a capture engine: our side (`engine`), and its own process (`process`, `hook`)."""
