"""Each function under the real functions-framework, its bucket an emulator's."""
