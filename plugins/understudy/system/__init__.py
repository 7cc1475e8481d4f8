"""What every process uses of the operating system; imports nothing of ours."""
