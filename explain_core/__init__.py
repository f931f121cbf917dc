"""What a classifier, a generator and an explanation are; knows no DICOM and no queue."""
