"""The training loop of all learners: budgets, schedules, resume, progress, metrics."""
