-- wrk at full speed until it has seen so many answers. Arguments after `--`: KEY COUNT get|post3m.
-- Prints a line as common.py describes for each of them, and wrk its summary.

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
    -- Its first thread sleeps until its time is over, or it is interrupted.
    -- Not by os.execute: system(3) ignores the signal meanwhile.
    io.popen("kill -INT $PPID"):close()
  end
end
