-- Orthanc sends chest radiographs to the explanation node once their study is complete, and never what came back.
--
-- What was sent is written down in Orthanc itself: a delivered image has the metadata MARK, one on its way is in a job
-- of Orthanc's. So nothing is sent twice or forgotten when Orthanc, the node or the network between them fails:
--   the node is away        the job fails and stays. The oldest one is tried again with the next stable study (of any
--                           modality), when Orthanc starts, and every minute where Orthanc is 1.11.1 or newer; once
--                           one arrives, all others follow
--   Orthanc was restarted   jobs go on; studies whose event was lost are found in the last changes
-- Shown by tests/pacs/test_orthanc_recipe.py.

local NODE = 'explain'                           -- its name in DicomModalities
local MANUFACTURER = 'DICOM explanation node'    -- `results.manufacturer` of the node: these objects are its own
local MARK = 'SentToExplain'                     -- in UserMetadata
local LAST_CHANGES = 2000                        -- looked through when Orthanc starts

local MODALITIES = { CR = true, DX = true, DR = true, RG = true }
-- Words of Body Part Examined that mean the chest: those that the node knows. Where the element is empty the image is
-- sent: the node looks further, and answers what is not the chest with a report that says so.
local CHEST = {}
for word in string.gmatch([[
  CHEST CXR THORAX THORACIC TORAX TORACE THORAKS BRUSTKORB LUNG LUNGS LUNGE LUNGEN POUMON POUMONS PULMON PULMONES
  POLMONE POLMONI PULMAO LONG LONGEN PLUCA
]], '%a+') do
  CHEST[word] = true
end

local function aet()
  return ParseJson(RestApiGet('/modalities/' .. NODE .. '/configuration'))['AET']
end

-- Whether a series (as Orthanc describes it) may be of chest radiographs of a modality.
function IsChestRadiograph(series)
  local tags = series['MainDicomTags']
  if not MODALITIES[tags['Modality'] or ''] or tags['Manufacturer'] == MANUFACTURER then
    return false
  end
  local part = string.upper(tags['BodyPartExamined'] or '')
  if part == '' then
    return true
  end
  for word in string.gmatch(part, '%a+') do
    if CHEST[word] then
      return true
    end
  end
  return false
end

-- Jobs that send to the node and are not done: those that failed, the oldest first, and every image in any of them.
local function unfinished()
  local failed, taken, node = {}, {}, aet()
  for _, job in ipairs(ParseJson(RestApiGet('/jobs?expand'))) do
    local content = job['Content'] or {}
    if job['Type'] == 'DicomModalityStore' and content['RemoteAet'] == node and job['State'] ~= 'Success' then
      for _, id in ipairs(content['ParentResources'] or {}) do
        taken[id] = true
      end
      if job['State'] == 'Failure' then
        table.insert(failed, job)
      end
    end
  end
  table.sort(failed, function(a, b) return a['CompletionTime'] < b['CompletionTime'] end)
  return failed, taken
end

local function resubmit(job)
  RestApiPost('/jobs/' .. job['ID'] .. '/resubmit', '')
end

-- Send what is new of a study: a late image goes alone.
local function send(study, taken)
  local new, node = {}, aet()
  for _, series in ipairs(ParseJson(RestApiGet('/studies/' .. study .. '/series'))) do
    if IsChestRadiograph(series) then
      for _, id in ipairs(series['Instances']) do
        local known = ParseJson(RestApiGet('/instances/' .. id .. '/metadata?expand'))
        if known[MARK] == nil and known['RemoteAET'] ~= node and not taken[id] then
          table.insert(new, id)
        end
      end
    end
  end
  if #new > 0 then
    RestApiPost('/modalities/' .. NODE .. '/store', DumpJson({ Resources = new, Synchronous = false }))
  end
end

-- One that failed is enough to see whether the node is back: OnJobSuccess has the others follow.
local function try_again(failed)
  if failed[1] ~= nil then
    resubmit(failed[1])
  end
end

function OnStableStudy(study, tags, metadata)
  local failed, taken = unfinished()
  try_again(failed)
  send(study, taken)
end

function OnHeartBeat() -- Orthanc 1.11.1 and newer, every LuaHeartBeatPeriod seconds
  try_again((unfinished()))
end

function OnJobSuccess(id)
  local job = ParseJson(RestApiGet('/jobs/' .. id))
  if job['Type'] ~= 'DicomModalityStore' or job['Content']['RemoteAet'] ~= aet() then
    return
  end
  for _, instance in ipairs(job['Content']['ParentResources']) do
    RestApiPut('/instances/' .. instance .. '/metadata/' .. MARK, id)
  end
  for _, other in ipairs(unfinished()) do
    resubmit(other)
  end
end

function OnJobFailure(id)
  local job = ParseJson(RestApiGet('/jobs/' .. id))
  if job['Type'] == 'DicomModalityStore' and job['Content']['RemoteAet'] == aet() then
    print('explain: images were not sent and will be tried again (job ' .. id .. '): ' .. job['ErrorDetails'])
  end
end

-- Events are lost when Orthanc ends before it has told them; so what came last is looked through when it starts.
function Initialize()
  local last = ParseJson(RestApiGet('/changes?last'))['Last']
  local since = math.max(0, last - LAST_CHANGES)
  local studies = {}
  for _, change in ipairs(ParseJson(RestApiGet('/changes?since=' .. since .. '&limit=' .. LAST_CHANGES))['Changes']) do
    if change['ChangeType'] == 'NewInstance' then
      local study = RestApiGet('/instances/' .. change['ID'] .. '/study')
      if study ~= nil then -- else it has been deleted since
        studies[ParseJson(study)['ID']] = true
      end
    end
  end
  local failed, taken = unfinished()
  try_again(failed)
  for study in pairs(studies) do
    send(study, taken)
  end
end
