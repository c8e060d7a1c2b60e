-- SPDX-License-Identifier: MIT OR Apache-2.0

-- Runs wrk at full speed until it has received COUNT responses. The arguments after `--` are KEY
-- COUNT get|post3m. The script prints a line for each response as common.py describes it, and wrk
-- adds its summary.

function init(arguments)
  wrk.headers["X-Api-Key"] = arguments[1]
  left = tonumber(arguments[2])
  if arguments[3] == "post3m" then
    wrk.method = "POST"
    wrk.body = string.rep("x", 3000000)
  end
end

local function quoted(text)
  local escape = function(c) return string.format("\\u%04x", c:byte()) end
  return '"' .. text:gsub('[%c"\\]', escape) .. '"'
end

function response(status, headers, body)
  if left == 0 then return end
  left = left - 1
  local fields = {}
  for name, value in pairs(headers) do
    fields[#fields + 1] = "[" .. quoted(name) .. "," .. quoted(value) .. "]"
  end
  io.write('{"status":', status, ',"headers":[', table.concat(fields, ","), '],"body":', quoted(body), "}\n")
  if left == 0 then
    wrk.thread:stop()
    -- The first thread of wrk sleeps until its time is over or a signal interrupts it.
    -- os.execute would not work here, because system(3) ignores the signal while it runs.
    io.popen("kill -INT $PPID"):close()
  end
end
