"""Tests, and what they share with the demo: data, the stack in containers, holdings."""
