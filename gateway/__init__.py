"""Every edge: DIMSE, DICOMweb, HL7, web pages and the command."""
