"""Stored histories of the app's orchestrators, recorded from real runs and replayed through the SDK."""
