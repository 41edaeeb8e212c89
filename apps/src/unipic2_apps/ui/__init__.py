"""The web page: draw, edit and ask in a browser. It is a client of the HTTP server and knows nothing of models."""
