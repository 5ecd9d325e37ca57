"""A model of realistic size for the benchmarks: ResNet-18 on photographs."""
