"""The domain of Groundwork. Knows no trigger, no HTTP type and no Durable type."""
