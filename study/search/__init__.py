"""Trials until the budget is used up: an open study, its workers, one trial, and what counts as one."""
