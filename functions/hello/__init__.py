"""The smallest function: it returns the message of the request."""
