"""The laptop's world: sets up what a stack needs and runs it. Standard library only; never deployed."""
