"""The tests, in a folder for each thing that it takes to run them or that they are about."""
