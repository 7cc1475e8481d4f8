"""Coverage-guided fuzzing of every parser of ours that reads what comes from outside."""
