#!/bin/sh
# dicom-node with the settings of this machine, as the units have them; deploy/install.sh puts it on the PATH.
# Called as the node's user: sudo -u dicom-node dicom-node status
config=/etc/dicom-node/node.toml
environment=/etc/dicom-node/environment
program=/opt/dicom-node
if [ -r "$environment" ]; then
    while IFS= read -r line || [ -n "$line" ]; do
        case $line in
            [A-Za-z_]*=\"*\") line=${line%\"} && line="${line%%=*}=${line#*=\"}" ;;
            [A-Za-z_]*=\'*\') line=${line%\'} && line="${line%%=*}=${line#*=\'}" ;;
            [A-Za-z_]*=*) ;;
            *) continue ;;
        esac
        export "${line?}"
    done <"$environment"
fi
export DICOM_NODE_CONFIG="${DICOM_NODE_CONFIG:-$config}"
exec "${RELEASE:-$program}/bin/dicom-node" "$@"
