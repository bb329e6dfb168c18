"""What is measured: the runner and its peers over a real WebSocket, the wire vocabulary, the floors beneath both."""
