"""What people read of a run: plan, report, model card, and the lines at its end."""
