"""The container's handler and any model as a function, with the same requests and responses."""
