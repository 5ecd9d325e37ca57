"""A model of real size for the benchmarks: ResNet-18 on photographs."""
