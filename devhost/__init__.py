"""Embedded Azure Functions host for a laptop and CI: serves an unchanged `function_app.py`. Never deployed."""
