-- Forwards every instance to the standby: the auto-routing of the Orthanc Book ("Server-side scripting with Lua"), as a
-- clinic's IT would have it. It has no guard against loops and no memory: what it could not send it never sends again.
function OnStoredInstance(instanceId, tags, metadata)
   SendToModality(instanceId, 'standby')
end
