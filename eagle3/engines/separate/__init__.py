"""Engines in separate processes, often under another interpreter: our side (`run`), theirs
(`process`, `intake`), and what they exchange (`request`)."""
