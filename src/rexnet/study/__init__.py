"""The paper's argument: matrix ranks of the outputs of layers, in random networks and in real ones."""
