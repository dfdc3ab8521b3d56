"""Documents of an invented company, the program that builds them and a golden set of questions."""
