"""Engine in C++ for ReXNets on x86-64 CPUs: depth-first, fp32 and bf16, built where the package is installed."""
