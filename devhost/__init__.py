"""Embedded Azure Functions host for a laptop and CI: serves an unchanged function app; never deployed."""
