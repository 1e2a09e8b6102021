"""Solvers, and the schedule of budgets."""
