-- wrk: a new order in every request
local id = 0
local thread = 0
function setup(t)
  thread = thread + 1
  t:set("number", thread)
end
function init()
  math.randomseed(os.time() + number * 7919)
  prefix = string.format("%d-%d-%d", os.time(), number, math.random(1e9))
end
function request()
  id = id + 1
  local body = string.format('{"orderId":"%s-%d","customerId":"customer-%d","items":[{"sku":"SKU-CALZONE","quantity":2,"unitPrice":11.8},{"sku":"SKU-WATER","quantity":1,"unitPrice":2.1}],"totalAmount":25.7,"tenantId":"tenant-%d","channel":"web"}', prefix, id, id % 100, id % 5)
  return wrk.format("POST", "/orders", {["Content-Type"] = "application/json", ["X-API-Key"] = "bench", ["X-Request-Id"] = prefix .. "-" .. id}, body)
end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %.3f %d\n", summary.requests, summary.duration, latency:percentile(99) / 1000, e.connect + e.read + e.write + e.status + e.timeout))
end
