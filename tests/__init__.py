"""The contract, by what it takes to run it: unit/, torchserve/, container/."""
