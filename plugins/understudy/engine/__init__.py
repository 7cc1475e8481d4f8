"""Engine: the one runner of every long act that a person asks for."""
