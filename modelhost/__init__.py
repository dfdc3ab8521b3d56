"""An OpenAI-compatible server for self-hosted models; deployed apart from the application."""
