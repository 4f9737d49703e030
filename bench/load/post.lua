-- wrk's part: requests that take turns from a list, each with its own credentials; a line of JSON at the end.
-- Arguments: FILE (lines "PATH<tab>AUTHORIZATION"), SIZE of the body in bytes (0: a chat's), "keep" or "close",
-- METHOD.
local CHAT = '{"model":"demo","messages":[{"role":"system","content":"You are terse."},{"role":"user","content":"hi there"}],"temperature":0.7,"max_tokens":64}'

function init(arguments)
  local path, size, connection, method = arguments[1], tonumber(arguments[2]), arguments[3], arguments[4]
  local body = CHAT
  if method == "GET" then
    body = nil
  elseif size > 0 then
    body = '{"model":"demo","input":"' .. string.rep("x", size - 27) .. '"}'
  end
  requests = {}
  for line in io.lines(path) do
    local target, authorization = line:match("^(.-)\t(.*)$")
    local headers = {
      ["content-type"] = "application/json",
      ["accept"] = "application/json",
      ["user-agent"] = "OpenAI/Python 2.0.0",
    }
    if authorization ~= "" then headers["authorization"] = authorization end
    if connection == "close" then headers["connection"] = "close" end
    requests[#requests + 1] = wrk.format(method, target, headers, body)
  end
  turn = 0
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function done(summary, latency, _)
  local errors = summary.errors
  print(string.format(
    'RESULT {"requests": %d, "bytes": %d, "seconds": %.6f, "refused": %d, "broken": %d, "p50": %.1f, "p99": %.1f}',
    summary.requests, summary.bytes, summary.duration / 1e6, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout, latency:percentile(50), latency:percentile(99)))
end
