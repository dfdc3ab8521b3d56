"""Writers that turn one readable source into an office document, byte for byte the same each time."""
