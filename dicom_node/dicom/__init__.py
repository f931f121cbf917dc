"""What the node knows of DICOM: files, elements, pixels, what is negotiated."""
