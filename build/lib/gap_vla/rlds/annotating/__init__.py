"""ρ for files of others: an RLDS dataset, a robomimic HDF5 or a folder of npz goes in, the same with ρ comes out."""

from gap_vla.core.lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "job": "AnnotatedFiles AnnotationError AnnotationJob",
        "files": "annotate_files show_episode write_report",
    },
)
