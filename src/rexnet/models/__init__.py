"""Networks: channel rules, blocks, the network class, variants, weights and cost. Imports torch only."""
