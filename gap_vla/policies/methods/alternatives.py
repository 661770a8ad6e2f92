"""GAP with other sources of ρ (`gap_vla.phases`), computed from the stored proprioception."""

from gap_vla.policies.methods.gap import Gap


class GapGaussian(Gap):
    """Gaussian bumps at the exact segmentation's change points."""

    needs_rho = False
    rho_source = "gaussian"


class GapChangePoints(Gap):
    """ρ = 1 at the change points and 0 elsewhere: the raw labels."""

    needs_rho = False
    rho_source = "change_points"


class GapHdbscan(Gap):
    """Change points where HDBSCAN's clusters of motion change."""

    needs_rho = False
    rho_source = "hdbscan"


class GapCotpc(Gap):
    """CoTPC-style key states, where the direction of motion turns."""

    needs_rho = False
    rho_source = "cotpc"
