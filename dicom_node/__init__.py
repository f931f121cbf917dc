"""The node: network, disk, queue and DICOM objects."""
