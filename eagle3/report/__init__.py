"""What people read about a run: plan, report, model card, and the summary at its end."""
