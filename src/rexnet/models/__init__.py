"""Networks: channel rules, blocks, the one class, variants, weights and cost. Imports torch only."""
