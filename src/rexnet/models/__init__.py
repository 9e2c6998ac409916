"""The networks: channel rules, blocks, the one network class, its variants, their weights and their cost. Imports torch only."""
