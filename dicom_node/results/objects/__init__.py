"""One file per object that the node sends; the folder is the registry."""
