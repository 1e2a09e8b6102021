"""What a pruned model may cost: budgets as users write them, and the price of every unit."""

from fastprune.budget.costs import Prices, price_sites
from fastprune.budget.spec import Budget, BudgetKind, parse_budget, round_up

__all__ = ["Budget", "BudgetKind", "Prices", "parse_budget", "price_sites", "round_up"]
