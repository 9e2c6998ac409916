"""Engine in C++ for ReXNets on x86-64 CPUs: depth-first, fp32, bf16 and int8, built where the package is installed."""
