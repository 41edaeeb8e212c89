"""The HTTP server: OpenAI's images and chat endpoints over engines."""
