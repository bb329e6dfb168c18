"""The wire vocabulary and the state machines, sans-IO: no loop, no clock, no socket, no randomness of their own."""
