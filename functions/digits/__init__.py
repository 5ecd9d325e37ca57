"""The container's handler and model as a function, with the same requests and responses."""
