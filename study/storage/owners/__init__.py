"""Owners of things that one process may have at a time: leases on trials, locks, the study's clock, and folders."""
