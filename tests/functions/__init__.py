"""Each function in the real functions-framework, with a storage emulator."""
