-- The auto-routing rule of the tutorial's PACS: radiographs that did not come from the node go to it.
-- For a real Orthanc see docs/pacs.md: there it waits until a study is stable, and tries again.
function OnStoredInstance(instance, tags, metadata, origin)
   if origin['RemoteAet'] ~= 'EXPLAIN' and (tags['Modality'] == 'CR' or tags['Modality'] == 'DX') then
      SendToModality(instance, 'node')
   end
end
