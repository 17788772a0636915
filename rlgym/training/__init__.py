"""One loop trains every learner: budgets, schedules, resume, progress, metrics."""
