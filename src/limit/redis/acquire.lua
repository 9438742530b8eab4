-- Charges costs to limits by the generic cell rate algorithm, each to all limits of an account or to none.
--
-- KEYS: a hash for each account, with a field for each limit: its theoretical arrival time, as "seconds.nanoseconds".
-- ARGV[1], ARGV[2]: now in seconds and nanoseconds; empty for the time of the server.
-- Then for each account the number of operations, and for each of these the number of limits, and for each of these:
--   1 name   2, 3 the time of the cost   4, 5 the time of the whole burst
--   6, 7 the time to return   8, 9 the time to consume in any case   10, 11 the latest known arrival time
--
-- Returns now, and for each operation 1 if it is allowed, otherwise 0, and the arrival time of each limit. Times are pairs
-- of seconds and nanoseconds, since Lua's numbers cannot represent nanoseconds since 1970.

local now_s, now_n = tonumber(ARGV[1]), tonumber(ARGV[2])
if not now_s then
    local time = redis.call('TIME')
    now_s, now_n = tonumber(time[1]), tonumber(time[2]) * 1000
end

local function less(a_s, a_n, b_s, b_n)
    return a_s < b_s or (a_s == b_s and a_n < b_n)
end

local function add(a_s, a_n, b_s, b_n)
    local s, n = a_s + b_s, a_n + b_n
    if n >= 1000000000 then
        return s + 1, n - 1000000000
    end
    return s, n
end

local function subtract(a_s, a_n, b_s, b_n)
    local s, n = a_s - b_s, a_n - b_n
    if n < 0 then
        return s - 1, n + 1000000000
    end
    return s, n
end

local result = { now_s, now_n }
local position = 3

-- One operation on an account, whose arrival times are in `known` and changed ones in `changed`.
local function run(known, changed)
    local count = tonumber(ARGV[position])
    position = position + 1
    local limits, allowed = {}, 1
    for index = 1, count do
        local function pair(offset)
            return tonumber(ARGV[position + offset]), tonumber(ARGV[position + offset + 1])
        end
        local name = ARGV[position]
        local cost_s, cost_n = pair(1)
        local burst_s, burst_n = pair(3)
        local back_s, back_n = pair(5)
        local owed_s, owed_n = pair(7)
        local seen_s, seen_n = pair(9)
        position = position + 11
        local stored = known[name]
        local s, n = stored.s, stored.n
        if less(s, n, seen_s, seen_n) then
            s, n = seen_s, seen_n
        end
        s, n = subtract(s, n, back_s, back_n)
        if less(s, n, now_s, now_n) then
            s, n = now_s, now_n
        end
        local most_s, most_n = add(now_s, now_n, burst_s, burst_n)
        s, n = add(s, n, owed_s, owed_n)
        if less(most_s, most_n, s, n) then
            s, n = most_s, most_n
        end
        local after_s, after_n = add(s, n, cost_s, cost_n)
        if less(most_s, most_n, after_s, after_n) then
            allowed = 0
        end
        limits[index] = { name = name, s = s, n = n, after_s = after_s, after_n = after_n }
    end
    result[#result + 1] = allowed
    for _, limit in ipairs(limits) do
        if allowed == 1 then
            limit.s, limit.n = limit.after_s, limit.after_n
        end
        result[#result + 1] = limit.s
        result[#result + 1] = limit.n
        local stored = known[limit.name]
        local is_used = less(now_s, now_n, stored.s, stored.n) or less(now_s, now_n, limit.s, limit.n)
        if is_used and (stored.s ~= limit.s or stored.n ~= limit.n) then
            changed[limit.name] = true
        end
        known[limit.name] = { s = limit.s, n = limit.n }
    end
end

-- The arrival times of an account by name. Read as needed.
local function arrivals(key)
    return setmetatable({}, {
        __index = function(known, name)
            local text = redis.call('HGET', key, name)
            local s, n = string.match(text or '', '^(%d+)%.(%d+)$')
            local arrival = { s = tonumber(s) or 0, n = tonumber(n) or 0 }
            rawset(known, name, arrival)
            return arrival
        end,
    })
end

for _, key in ipairs(KEYS) do
    local operations = tonumber(ARGV[position])
    position = position + 1
    local known, changed = arrivals(key), {}
    for _ = 1, operations do
        run(known, changed)
    end
    local fields, latest_s, latest_n = {}, now_s, now_n
    for name in pairs(changed) do
        local arrival = known[name]
        fields[#fields + 1] = name
        fields[#fields + 1] = string.format('%d.%09d', arrival.s, arrival.n)
        if less(latest_s, latest_n, arrival.s, arrival.n) then
            latest_s, latest_n = arrival.s, arrival.n
        end
    end
    if #fields > 0 then
        redis.call('HSET', key, unpack(fields))
        -- One limit may outlast those that were changed.
        local wait_s = latest_s - now_s + 1
        local left = redis.call('PTTL', key)
        if left < wait_s * 1000 then
            redis.call('PEXPIRE', key, wait_s * 1000)
        end
    end
end

return result
