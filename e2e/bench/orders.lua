-- wrk: a new order in every request
local id = 0
local thread = 0
function setup(t)
  thread = thread + 1
  t:set("number", thread)
end
function init()
  math.randomseed(os.time() + number * 7919)
  prefix = string.format("%d-%d-%d-", os.time(), number, math.random(1e9))
  head = "POST /orders HTTP/1.1\r\nHost: " .. wrk.host .. "\r\nContent-Type: application/json\r\nX-API-Key: bench\r\nX-Request-Id: "
end
-- Written out: what the client costs is missing to both services.
function request()
  id = id + 1
  local body = '{"orderId":"' .. prefix .. id .. '","customerId":"customer-' .. id % 100 .. '","items":[{"sku":"SKU-CALZONE","quantity":2,"unitPrice":11.8},{"sku":"SKU-WATER","quantity":1,"unitPrice":2.1}],"totalAmount":25.7,"tenantId":"tenant-' .. id % 5 .. '","channel":"web"}'
  return head .. prefix .. id .. "\r\nContent-Length: " .. #body .. "\r\n\r\n" .. body
end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %.3f %d\n", summary.requests, summary.duration, latency:percentile(99) / 1000, e.connect + e.read + e.write + e.status + e.timeout))
end
