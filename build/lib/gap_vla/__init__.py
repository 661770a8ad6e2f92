"""GAP for Octo and other VLAs: phases in demonstrations, RLDS with ρ, proprioceptive gradients scaled by (1 - ρ)."""

__version__ = "0.2.0"
