-- Charges costs to limits by the generic cell rate algorithm, each to all limits of a request or to none.
--
-- KEYS: a hash for each subject, with a field for each limit: its theoretical arrival time, as two 32-bit numbers. The
-- field without a name is the second up to which the hash is kept. The field LEASES has the leased units by the time when
-- they expire, as "milliseconds:units ".
-- ARGV[1]: now; empty for the time of the server.
-- ARGV[2]: for each subject the number of its limits, 1 if it has leases, otherwise 0, and the names of its limits. Then
-- the number of operations, for each of them the number of its limits, 1 if it corrects earlier costs, 1 if it leases
-- units, otherwise 0, and for each of its limits:
--   its number among all names      the latest known arrival time
--   the time of the cost            the time of the whole burst
-- and if it corrects earlier costs:
--   the time to return before       the time to consume in any case
-- Then, if the operation leases units:
--   the units to lease at most      the units that are held     milliseconds until they expire
--   the precision of the expiry     the units that were recorded before, and when they expire
-- and for each limit the time of a unit, and the maximum number of units that are leased.
--
-- Returns now, and for each operation 1 if it is allowed, otherwise 0, the arrival time of each limit, and the number of
-- leased units if it leases some. Times are pairs of seconds and nanoseconds, since Lua's numbers cannot represent
-- nanoseconds since 1970.

-- The seconds that a hash is kept longer than needed, so that its expiry is seldom set.
local SPARE = 60
local LEASES = '\1'
-- The milliseconds after which no lease expires, unless the clock was set back.
local LONGEST = 20000

local read, pack, call = struct.unpack, struct.pack, redis.call
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

local now_ms = now_s * 1000 + math.floor(now_n / 1000000)

-- The leased units by expiry, without those that have expired.
local function parse_leases(text)
    local leases = {}
    for expires, units in string.gmatch(text or '', '(%d+):(%d+)') do
        expires = math.min(tonumber(expires), now_ms + LONGEST)
        if expires > now_ms then
            leases[expires] = (leases[expires] or 0) + tonumber(units)
        end
    end
    return leases
end

-- The largest number of units, up to a maximum, whose time is at most this.
local function units_within(s, n, unit_s, unit_n, most)
    local units = math.floor((s * 1000000000 + n) / (unit_s * 1000000000 + unit_n))
    units = math.max(math.min(units, most), 0)
    -- The quotient is rounded.
    while units > 0 do
        local product = units * unit_n
        local time_s, time_n = units * unit_s + math.floor(product / 1000000000), product % 1000000000
        if not less(s, n, time_s, time_n) then
            return units, time_s, time_n
        end
        units = units - 1
    end
    return 0, 0, 0
end

local names, known_s, known_n, changed, leases_changed, kept = {}, {}, {}, {}, {}, {}
local ends, last, leases, subjects = {}, 0, {}, {}
for subject, key in ipairs(KEYS) do
    local count, has_leases
    count, has_leases, names[last + 1], position = read('<I2BBc0', input, position)
    for index = last + 2, last + count do
        names[index], position = read('Bc0', input, position)
    end
    local stored
    if count == 1 and has_leases == 0 then
        stored = call('HMGET', key, names[last + 1], '')
    else
        -- The name after the last one is not known yet.
        names[last + count + 1], names[last + count + 2] = '', has_leases == 1 and LEASES or nil
        stored = call('HMGET', key, unpack(names, last + 1, last + count + 1 + has_leases))
    end
    for index = 1, count do
        local arrival = stored[index]
        last = last + 1
        if arrival then
            known_s[last], known_n[last] = read('<I4I4', arrival)
        else
            known_s[last], known_n[last] = 0, 0
        end
        subjects[last] = subject
    end
    if has_leases == 1 then
        leases[subject] = parse_leases(stored[count + 2])
    end
    kept[subject] = tonumber(stored[count + 1] or 0)
    ends[subject] = last
end

local operations
operations, position = read('<I2', input, position)
-- Used by all operations, since tables are expensive to create.
local indices, before_s, before_n, after_s, after_n = {}, {}, {}, {}, {}
local burst_of_s, burst_of_n = {}, {}
for _ = 1, operations do
    local limits, is_correction, is_lease
    limits, is_correction, is_lease, position = read('BBB', input, position)
    local allowed = 1
    for limit = 1, limits do
        local index, seen_s, seen_n, cost_s, cost_n, burst_s, burst_n, owed_s, owed_n
        index, seen_s, seen_n, cost_s, cost_n, burst_s, burst_n, position =
            read('<I2I4I4I4I4I4I4', input, position)
        -- Without calls of functions, which would take most of the time.
        local s, n = known_s[index], known_n[index]
        if s < seen_s or (s == seen_s and n < seen_n) then
            s, n = seen_s, seen_n
        end
        if is_correction == 1 then
            local back_s, back_n
            back_s, back_n, owed_s, owed_n, position = read('<I4I4I4I4', input, position)
            s, n = subtract(s, n, back_s, back_n)
        end
        if s < now_s or (s == now_s and n < now_n) then
            s, n = now_s, now_n
        end
        if is_correction == 1 then
            s, n = add(s, n, owed_s, owed_n)
        end
        local most_s, most_n = now_s + burst_s, now_n + burst_n
        if most_n >= 1000000000 then
            most_s, most_n = most_s + 1, most_n - 1000000000
        end
        if most_s < s or (most_s == s and most_n < n) then
            s, n = most_s, most_n
        end
        before_s[limit], before_n[limit] = s, n
        s, n = s + cost_s, n + cost_n
        if n >= 1000000000 then
            s, n = s + 1, n - 1000000000
        end
        if most_s < s or (most_s == s and most_n < n) then
            allowed = 0
        end
        indices[limit], after_s[limit], after_n[limit] = index, s, n
        burst_of_s[limit], burst_of_n[limit] = burst_s, burst_n
    end
    size = size + 1
    result[size] = allowed
    if allowed == 0 then
        for limit = 1, limits do
            after_s[limit], after_n[limit] = before_s[limit], before_n[limit]
        end
    end
    local granted
    if is_lease == 1 then
        local held, ttl, step, old_units, old_s, old_n
        granted, held, ttl, step, old_units, old_s, old_n, position = read('<I4I4I4I4I4I4I4', input, position)
        local old = math.min(old_s * 1000 + math.floor(old_n / 1000000), now_ms + LONGEST)
        local unit_s, unit_n, totals = {}, {}, {}
        for limit = 1, limits do
            local most
            unit_s[limit], unit_n[limit], most, position = read('<I4I4I4', input, position)
            local subject = subjects[indices[limit]]
            if not totals[subject] then
                local recorded = leases[subject]
                if recorded[old] then
                    recorded[old] = math.max(recorded[old] - old_units, 0)
                end
                totals[subject] = held
                for _, units in pairs(recorded) do
                    totals[subject] = totals[subject] + units
                end
            end
            -- Half of the rest, so that other processes also find some.
            granted = math.max(math.min(granted, math.ceil((most - totals[subject]) / 2)), 0)
            local most_s, most_n = add(now_s, now_n, burst_of_s[limit], burst_of_n[limit])
            local room_s, room_n = subtract(most_s, most_n, after_s[limit], after_n[limit])
            granted = units_within(room_s, room_n, unit_s[limit], unit_n[limit], granted)
        end
        if allowed == 0 then
            granted = 0
        end
        for limit = 1, limits do
            local product = granted * unit_n[limit]
            after_s[limit], after_n[limit] = add(after_s[limit], after_n[limit],
                granted * unit_s[limit] + math.floor(product / 1000000000), product % 1000000000)
        end
        local expires = math.ceil((now_ms + 1 + ttl) / step) * step
        for subject in pairs(totals) do
            leases[subject][expires] = (leases[subject][expires] or 0) + held + granted
            leases_changed[subject] = true
        end
    end
    for limit = 1, limits do
        local index, s, n = indices[limit], after_s[limit], after_n[limit]
        result[size + 1], result[size + 2] = s, n
        size = size + 2
        local old_s, old_n = known_s[index], known_n[index]
        -- An arrival time that has passed need not be stored, unless a later one is.
        if (old_s ~= s or old_n ~= n) and (less(now_s, now_n, s, n) or less(now_s, now_n, old_s, old_n)) then
            known_s[index], known_n[index], changed[index] = s, n, true
        end
    end
    if is_lease == 1 then
        size = size + 1
        result[size] = granted
    end
end

local first, fields = 1, {}
for subject, key in ipairs(KEYS) do
    local latest, count = 0, 0
    for index = first, ends[subject] do
        if changed[index] then
            fields[count + 1], fields[count + 2] = names[index], pack('<I4I4', known_s[index], known_n[index])
            count = count + 2
            latest = math.max(latest, known_s[index] + 1)
        end
    end
    first = ends[subject] + 1
    if leases_changed[subject] then
        local texts = {}
        for expires, units in pairs(leases[subject]) do
            if units > 0 then
                texts[#texts + 1] = string.format('%.0f:%.0f ', expires, units)
                latest = math.max(latest, math.ceil(expires / 1000))
            end
        end
        fields[count + 1], fields[count + 2] = LEASES, table.concat(texts)
        count = count + 2
    end
    -- A limit may outlast those that were changed.
    local outlasts = kept[subject] < latest
    if outlasts then
        fields[count + 1], fields[count + 2] = '', latest + SPARE
        count = count + 2
    end
    if count > 0 then
        call('HSET', key, unpack(fields, 1, count))
    end
    if outlasts then
        call('EXPIRE', key, latest + SPARE - now_s)
    end
end

return result
