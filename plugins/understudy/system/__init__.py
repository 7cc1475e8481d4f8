"""Functions of the operating system that every process uses. Imports nothing of ours."""
