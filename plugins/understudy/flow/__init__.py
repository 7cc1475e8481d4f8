"""The appliance's verbs, one a file; they reach everything outside through ports."""
