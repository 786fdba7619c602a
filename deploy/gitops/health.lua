-- Health of LinkConnections, LinkTables, LandingZones and IntegrationRuntimes, as Argo CD asks for it: by their conditions alone.
local health = {status = "Progressing", message = "not seen by link-operator yet"}
local status = obj.status
if status == nil or status.conditions == nil or status.observedGeneration ~= obj.metadata.generation then
  return health
end
local is = {}
for _, condition in ipairs(status.conditions) do
  is[condition.type] = condition
end
local function says(kind)
  return is[kind] ~= nil and is[kind].status == "True"
end
local ready = is["Ready"]
if ready ~= nil then
  health.message = ready.reason .. ": " .. ready.message
end
if says("Stalled") then
  health.status = "Degraded"
elseif says("Ready") and says("Suspended") then
  -- Paused or Stopped, as the spec asks.
  health.status = "Suspended"
elseif says("Ready") then
  health.status = "Healthy"
end
return health
