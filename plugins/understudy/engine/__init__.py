"""Engine: runs the operations, which are the long tasks that a person starts."""
