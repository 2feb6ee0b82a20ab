-- wrk: SendMessage of a short text again and again, each with a messageId of its own; prints what came of it as JSON.
-- BENCH_BINDING: rpc or rest. BENCH_METHOD: of JSON-RPC, when it is another. BENCH_NAME: what the ids begin with. BENCH_META: JSON of the message's metadata.
local binding = os.getenv("BENCH_BINDING")
local name = os.getenv("BENCH_NAME")
local meta = os.getenv("BENCH_META")
local method = os.getenv("BENCH_METHOD") or "SendMessage"
local count = 0

wrk.method = "POST"
wrk.headers["Host"] = os.getenv("BENCH_HOST")
wrk.headers["A2A-Version"] = "1.0"
wrk.headers["Content-Type"] = "application/json"

function request()
  count = count + 1
  local message = '{"message":{"messageId":"' .. name .. "-" .. count
    .. '","role":"ROLE_USER","parts":[{"text":"hello"}]' .. (meta and (',"metadata":' .. meta) or "") .. "}}"
  if binding == "rpc" then
    message = '{"jsonrpc":"2.0","id":' .. count .. ',"method":"' .. method .. '","params":' .. message .. "}"
  end
  return wrk.format(nil, nil, nil, message)
end

function done(summary, latency, requests)
  local failed = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.status
    + summary.errors.timeout
  io.write(string.format('\n{"requests": %d, "seconds": %.6f, "failed": %d, "p50_ms": %.4f, "p99_ms": %.4f}\n',
    summary.requests, summary.duration / 1e6, failed, latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
