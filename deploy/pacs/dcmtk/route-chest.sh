#!/bin/sh
# Sends chest radiographs that dcmtk's storescp has received to the explanation node: docs/pacs/dcmtk.md.
#
#   route-chest.sh INBOX
#
# INBOX has a folder for each study, as storescp makes them with --sort-on-study-uid. storescp calls this when a study has
# ended. A file that is not for the node, or that the node has taken, goes to INBOX/done; one that could not be sent stays
# and is tried again with the next study, or when this is called by cron. Names from the network are never evaluated.
set -eu
node_host=${NODE_HOST:-127.0.0.1}
node_port=${NODE_PORT:-11112}
node_aet=${NODE_AET:-EXPLAIN}
own_aet=${OWN_AET:-ROUTER}
inbox=$1

# The value of an element, or nothing.
value() {
    dcmdump --quiet --search "$1" --load-short "$2" | sed -n '1s/^([^[]*\[\(.*\)\].*/\1/p' | sed 's/ *$//'
}

is_chest_radiograph() {
    case $(value Modality "$1") in
        CR | DX | DR | RG) ;;
        *) return 1 ;;
    esac
    # What the node itself has made never goes back.
    [ "$(value Manufacturer "$1")" != "DICOM explanation node" ] || return 1
    # Not stated: the node looks further, and answers with a report.
    case $(value BodyPartExamined "$1" | tr '[:lower:]' '[:upper:]') in
        '' | *CHEST* | *CXR* | *THORA* | *TORA* | *BRUSTKORB* | *LUNG* | *POUMON* | *PULM* | *POLMON* | *PLUCA*) ;;
        *) return 1 ;;
    esac
}

failed=0
mkdir -p "$inbox/done"
for file in "$inbox"/study_*/*; do
    [ -f "$file" ] || continue
    if is_chest_radiograph "$file"; then
        if ! dcmsend --quiet --aetitle "$own_aet" --call "$node_aet" --decompress-never "$node_host" "$node_port" "$file"; then
            failed=1
            continue
        fi
    fi
    mv "$file" "$inbox/done/"
done
exit $failed
