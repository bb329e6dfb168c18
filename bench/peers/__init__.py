"""Runners to be measured beside ours, written for that alone. They share nothing with trio_runner."""
