"""What it takes to serve a rate, a day or a trace, by simulating the server's own scheduler."""
