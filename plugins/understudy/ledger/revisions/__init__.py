"""The steps from one schema of the ledger to the next, in the order of their numbers (CONTRIBUTING.md)."""
