"""The tests, in one folder per subject or requirement, such as a Docker engine; see each folder."""
