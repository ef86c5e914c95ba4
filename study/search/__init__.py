"""Search: an open study, and its workers, which run trials until the budget is used up."""
