"""Reading work as DICOM Unified Procedure Steps."""
