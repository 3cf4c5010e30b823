"""Engines in processes of their own, often under another interpreter: our side (`run`), theirs
(`process`, `intake`), and what both exchange (`request`)."""
