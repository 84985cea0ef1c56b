"""The server behind ``serve``: HTTP, models and limits. Nothing here imports torch."""
