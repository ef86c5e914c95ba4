"""Whole slides: opened in child processes, where tissue is, and tiles of an exact size in micrometres."""

ENDINGS = (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".svslide", ".vms", ".vmu", ".czi")
"""Endings of files that are slides and nothing else."""
TIFF, DICOM = (".tif", ".tiff"), (".dcm", ".dicom")
"""Endings of files that may be slides."""
