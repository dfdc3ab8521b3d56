"""The edge: triggers, orchestrators and activities. Each is a thin adapter over the domain in `shared`."""
