-- Charges costs to limits by the generic cell rate algorithm, each to all limits of a request or to none.
--
-- KEYS: a hash for each subject, with a field for each limit: its theoretical arrival time, as "seconds.nanoseconds". The
-- field without a name is the second up to which the hash is kept.
-- ARGV[1]: now; empty for the time of the server.
-- ARGV[2]: for each subject the number of its limits and their names. Then the number of operations, for each of them the
-- number of its limits, and for each of these:
--   its number among all names      the time of the cost        the time of the whole burst
--   the time to return before       the time to consume in any case       the latest known arrival time
--
-- Returns now, and for each operation 1 if it is allowed, otherwise 0, and the arrival time of each limit. Times are pairs
-- of seconds and nanoseconds, since Lua's numbers cannot represent nanoseconds since 1970.

-- The seconds that a hash is kept longer than needed, so that its expiry is seldom set.
local SPARE = 60

local read, call = struct.unpack, redis.call
local now_s, now_n
if ARGV[1] == '' then
    local time = call('TIME')
    now_s, now_n = tonumber(time[1]), tonumber(time[2]) * 1000
else
    now_s, now_n = read('<I4I4', ARGV[1])
end
local input, position = ARGV[2], 1
local result, size = { now_s, now_n }, 2

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

local names, known_s, known_n, changed, kept = {}, {}, {}, {}, {}
local ends, last = {}, 0
for subject, key in ipairs(KEYS) do
    local count
    count, position = read('<I2', input, position)
    local own = {}
    for index = 1, count do
        own[index], position = read('Bc0', input, position)
    end
    own[count + 1] = ''
    local stored = call('HMGET', key, unpack(own))
    for index = 1, count do
        local text = stored[index]
        names[last + index] = own[index]
        known_s[last + index] = text and tonumber(string.sub(text, 1, -11)) or 0
        known_n[last + index] = text and tonumber(string.sub(text, -9)) or 0
    end
    kept[subject] = tonumber(stored[count + 1]) or 0
    last = last + count
    ends[subject] = last
end

local operations
operations, position = read('<I2', input, position)
for _ = 1, operations do
    local limits, allowed
    limits, position = read('B', input, position)
    allowed = 1
    local indices, before_s, before_n, after_s, after_n = {}, {}, {}, {}, {}
    for limit = 1, limits do
        local index, cost_s, cost_n, burst_s, burst_n, back_s, back_n, owed_s, owed_n, seen_s, seen_n
        index, cost_s, cost_n, burst_s, burst_n, back_s, back_n, owed_s, owed_n, seen_s, seen_n, position =
            read('<I2I4I4I4I4I4I4I4I4I4I4', input, position)
        local s, n = known_s[index], known_n[index]
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
        local next_s, next_n = add(s, n, cost_s, cost_n)
        if less(most_s, most_n, next_s, next_n) then
            allowed = 0
        end
        indices[limit], before_s[limit], before_n[limit] = index, s, n
        after_s[limit], after_n[limit] = next_s, next_n
    end
    size = size + 1
    result[size] = allowed
    if allowed == 0 then
        after_s, after_n = before_s, before_n
    end
    for limit = 1, limits do
        local index, s, n = indices[limit], after_s[limit], after_n[limit]
        result[size + 1], result[size + 2] = s, n
        size = size + 2
        local known = less(now_s, now_n, known_s[index], known_n[index])
        if (known or less(now_s, now_n, s, n)) and (known_s[index] ~= s or known_n[index] ~= n) then
            changed[index] = true
        end
        known_s[index], known_n[index] = s, n
    end
end

local first = 1
for subject, key in ipairs(KEYS) do
    local fields, latest = {}, 0
    for index = first, ends[subject] do
        if changed[index] then
            fields[#fields + 1] = names[index]
            fields[#fields + 1] = string.format('%d.%09d', known_s[index], known_n[index])
            latest = math.max(latest, known_s[index] + 1)
        end
    end
    first = ends[subject] + 1
    if #fields > 0 then
        -- A limit may outlast those that were changed.
        if kept[subject] < latest then
            fields[#fields + 1] = ''
            fields[#fields + 1] = latest + SPARE
            call('HSET', key, unpack(fields))
            call('EXPIRE', key, latest + SPARE - now_s)
        else
            call('HSET', key, unpack(fields))
        end
    end
end

return result
