-- wrk: a new order in every request. KEY is the API key; NAME tells several at once apart; with PAUSE_MS a connection waits about so
-- long before each request. READY of them are written out before the first is sent: what the client does meanwhile is missing to both services.
local id = 0
local thread = 0
local ready = {}
local function made(n)
  local body = '{"orderId":"' .. prefix .. n .. '","customerId":"customer-' .. n % 100 .. '","items":[{"sku":"SKU-CALZONE","quantity":2,"unitPrice":11.8},{"sku":"SKU-WATER","quantity":1,"unitPrice":2.1}],"totalAmount":25.7,"tenantId":"tenant-' .. n % 5 .. '","channel":"web"}'
  return head .. prefix .. n .. "\r\nContent-Length: " .. #body .. "\r\n\r\n" .. body
end
function setup(t)
  thread = thread + 1
  t:set("number", thread)
end
function init()
  math.randomseed(os.time() + number * 7919 + tonumber((os.getenv("NAME") or ""):match("%d+") or 0) * 104729)
  prefix = string.format("%s%d-%d-%d-", os.getenv("NAME") or "", os.time(), number, math.random(1e9))
  head = "POST /orders HTTP/1.1\r\nHost: " .. wrk.host .. "\r\nContent-Type: application/json\r\nX-API-Key: " .. os.getenv("KEY") .. "\r\nX-Request-Id: "
  for n = 1, tonumber(os.getenv("READY") or 0) do
    ready[n] = made(n)
  end
end
function request()
  id = id + 1
  return ready[id] or made(id)
end
local pause = tonumber(os.getenv("PAUSE_MS"))
if pause then
  function delay()
    return math.random(math.floor(pause / 2), math.ceil(pause * 3 / 2))
  end
end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %.3f %d\n", summary.requests, summary.duration, latency:percentile(99) / 1000, e.connect + e.read + e.write + e.status + e.timeout))
end
