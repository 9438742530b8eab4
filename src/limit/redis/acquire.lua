-- Charges costs to limits by the generic cell rate algorithm, each to all limits of a request or to none.
--
-- KEYS: for each operation the hashes of its subjects. Each has a field for each limit, of five 32-bit numbers: its
-- theoretical arrival time, a second before which the hash does not expire, and the total time that was returned, by which
-- the arrival time may be earlier than before. The field LEASES has the leased units by the
-- time when they expire, as "milliseconds:units ".
-- ARGV[1]: now; empty for the time of the server.
-- ARGV[2]: the number of operations. For each of them the number of its limits, 1 if any hash has several of them, 1 if it
-- corrects earlier costs, 1 if it leases units, otherwise 0. If any hash has several limits, for each hash the number
-- and the names of its limits. For each limit, its name unless a hash has several, and:
--   the latest known arrival time  the total time that had been returned then
--   the time of the cost           the time of the whole burst
-- and if the operation corrects earlier costs:
--   the time to return before       the time to consume in any case
-- Then, if the operation leases units:
--   the units to lease at most      the units that are held     milliseconds until they expire
--   the precision of the expiry     the units that were recorded before, and when they expire
-- and for each limit the time of a unit, and the maximum number of units that are leased.
--
-- Returns now as two numbers; a string with a character for each operation: 1 if it is allowed, 0 if it is not, and 2 if a
-- value is damaged, so that nothing is charged; a string with the arrival time of each limit, in the form of a field; and
-- the number of leased units of each operation that asks for some. Times are pairs of seconds and nanoseconds, since Lua's
-- numbers cannot represent nanoseconds since 1970.

-- The seconds that a hash is kept longer than needed, so that its expiry is seldom set.
local SPARE = 60
local LEASES = '\1'
-- The milliseconds after which no lease expires, unless the clock was set back.
local LONGEST = 20000
-- The seconds of a total are modulo this number.
local MODULUS = 4294967296

local ALLOWED = { [0] = '0', '1', '2' }

local read, pack, call, unpack = struct.unpack, struct.pack, redis.call, unpack
local now_s, now_n
if ARGV[1] == '' then
    local time = call('TIME')
    now_s, now_n = tonumber(time[1]), tonumber(time[2]) * 1000
else
    now_s, now_n = read('<I4I4', ARGV[1])
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
        if not less(s, n, units * unit_s + math.floor(product / 1000000000), product % 1000000000) then
            break
        end
        units = units - 1
    end
    return units
end

-- Extends the expiry of a hash to a second.
local function keep(key, second)
    if call('EXPIRE', key, second - now_s, 'NX') == 0 then
        -- Another limit may need it for longer.
        call('EXPIRE', key, second - now_s, 'GT')
    end
end

local input, current = ARGV[2], 0
local operations, position = read('<I2', input)
-- Of each limit. Used by all operations, since tables are expensive to create.
local keys, names, stored_s, stored_n, kept = {}, {}, {}, {}, {}
local before_s, before_n, after_s, after_n, most_s, most_n = {}, {}, {}, {}, {}, {}
local all_returned_s, all_returned_n, are_returned = {}, {}, {}
local values, fields = {}, {}
-- The result.
local decisions, times, all_granted, size = {}, {}, {}, 0

-- Reads the limits of an operation by hash, in one call for each.
local function read_hashes(limits, position)
    local first = 1
    while first <= limits do
        local count
        count, position = read('B', input, position)
        current = current + 1
        local key, last = KEYS[current], first + count - 1
        for limit = first, last do
            keys[limit] = key
            names[limit], position = read('Bc0', input, position)
        end
        local stored = redis.pcall('HMGET', key, unpack(names, first, last))
        for limit = first, last do
            values[limit] = stored.err and stored or stored[limit - first + 1]
        end
        first = last + 1
    end
    return position
end

for operation = 1, operations do
    local limits, has_several, is_correction, is_lease
    limits, has_several, is_correction, is_lease, position = read('BBBB', input, position)
    if has_several == 1 then
        position = read_hashes(limits, position)
    end
    local allowed = 1
    for limit = 1, limits do
        local name, seen_s, seen_n, total_s, total_n, cost_s, cost_n, burst_s, burst_n, owed_s, owed_n, stored
        if has_several == 1 then
            seen_s, seen_n, total_s, total_n, cost_s, cost_n, burst_s, burst_n, position =
                read('<I4I4I4I4I4I4I4I4', input, position)
            stored = values[limit]
        else
            name, seen_s, seen_n, total_s, total_n, cost_s, cost_n, burst_s, burst_n, position =
                read('<Bc0I4I4I4I4I4I4I4I4', input, position)
            current = current + 1
            keys[limit], names[limit] = KEYS[current], name
            stored = redis.pcall('HGET', KEYS[current], name)
        end
        local s, n, kept_until, returned_s, returned_n = 0, 0, 0, total_s, total_n
        if type(stored) == 'string' and #stored == 20 then
            s, n, kept_until, returned_s, returned_n = read('<I4I4I4I4I4', stored)
            if n >= 1000000000 or returned_n >= 1000000000 then
                allowed = 2
            end
        elseif stored then
            allowed = 2
        end
        stored_s[limit], stored_n[limit], kept[limit] = s, n, kept_until
        if returned_s ~= total_s or returned_n ~= total_n then
            local since_s, since_n = subtract(returned_s, returned_n, total_s, total_n)
            if since_s % MODULUS < MODULUS / 2 then
                -- Returned since the latest known arrival time.
                seen_s, seen_n = subtract(seen_s, seen_n, since_s % MODULUS, since_n)
            else
                returned_s, returned_n = total_s, total_n
            end
        end
        -- A later time was lost. Inlined, here and below: calls of `less` and `add` would take most of the time.
        if s < seen_s or (s == seen_s and n < seen_n) then
            s, n = seen_s, seen_n
        end
        local is_returned = false
        if is_correction == 1 then
            local back_s, back_n
            back_s, back_n, owed_s, owed_n, position = read('<I4I4I4I4', input, position)
            s, n = subtract(s, n, back_s, back_n)
            if back_s > 0 or back_n > 0 then
                returned_s, returned_n = add(returned_s, returned_n, back_s, back_n)
                returned_s, is_returned = returned_s % MODULUS, true
            end
        end
        if s < now_s or (s == now_s and n < now_n) then
            s, n = now_s, now_n
        end
        if is_correction == 1 then
            s, n = add(s, n, owed_s, owed_n)
        end
        burst_s, burst_n = burst_s + now_s, burst_n + now_n
        if burst_n >= 1000000000 then
            burst_s, burst_n = burst_s + 1, burst_n - 1000000000
        end
        if burst_s < s or (burst_s == s and burst_n < n) then
            s, n = burst_s, burst_n
        end
        before_s[limit], before_n[limit] = s, n
        all_returned_s[limit], all_returned_n[limit], are_returned[limit] = returned_s, returned_n, is_returned
        s, n = s + cost_s, n + cost_n
        if n >= 1000000000 then
            s, n = s + 1, n - 1000000000
        end
        if allowed == 1 and (burst_s < s or (burst_s == s and burst_n < n)) then
            allowed = 0
        end
        after_s[limit], after_n[limit], most_s[limit], most_n[limit] = s, n, burst_s, burst_n
    end
    if allowed ~= 1 then
        for limit = 1, limits do
            after_s[limit], after_n[limit] = before_s[limit], before_n[limit]
        end
    end
    local granted, leased_until = 0, 0
    if is_lease == 1 then
        local held, ttl, step, old_units, old_s, old_n
        granted, held, ttl, step, old_units, old_s, old_n, position = read('<I4I4I4I4I4I4I4', input, position)
        local old = math.min(old_s * 1000 + math.floor(old_n / 1000000), now_ms + LONGEST)
        local unit_s, unit_n, leases, totals = {}, {}, {}, {}
        for limit = 1, limits do
            local most
            unit_s[limit], unit_n[limit], most, position = read('<I4I4I4', input, position)
            local key = keys[limit]
            if allowed == 2 then
                totals[key] = most
            elseif not leases[key] then
                local recorded = parse_leases(call('HGET', key, LEASES))
                if recorded[old] then
                    recorded[old] = math.max(recorded[old] - old_units, 0)
                end
                leases[key], totals[key] = recorded, held
                for _, units in pairs(recorded) do
                    totals[key] = totals[key] + units
                end
            end
            -- Half of the rest, so that other processes also find some.
            granted = math.max(math.min(granted, math.ceil((most - totals[key]) / 2)), 0)
            local room_s, room_n = subtract(most_s[limit], most_n[limit], after_s[limit], after_n[limit])
            granted = units_within(room_s, room_n, unit_s[limit], unit_n[limit], granted)
        end
        if allowed ~= 1 then
            granted = 0
        end
        for limit = 1, limits do
            local product = granted * unit_n[limit]
            after_s[limit], after_n[limit] = add(after_s[limit], after_n[limit],
                granted * unit_s[limit] + math.floor(product / 1000000000), product % 1000000000)
        end
        local expires = math.ceil((now_ms + 1 + ttl) / step) * step
        for key, recorded in pairs(leases) do
            recorded[expires] = (recorded[expires] or 0) + held + granted
            local texts = {}
            for time, units in pairs(recorded) do
                if units > 0 then
                    texts[#texts + 1] = string.format('%.0f:%.0f ', time, units)
                    leased_until = math.max(leased_until, math.ceil(time / 1000))
                end
            end
            if #texts > 0 then
                call('HSET', key, LEASES, table.concat(texts))
            else
                call('HDEL', key, LEASES)
            end
        end
    end
    decisions[operation] = ALLOWED[allowed]
    local count = 0
    for limit = 1, limits do
        local key, s, n, kept_until = keys[limit], after_s[limit], after_n[limit], kept[limit]
        local old_s, old_n = stored_s[limit], stored_n[limit]
        -- Times that have passed need not be stored, unless a later one is.
        local is_new = allowed ~= 2 and (old_s ~= s or old_n ~= n or are_returned[limit])
            and (now_s < s or (now_s == s and now_n < n) or less(now_s, now_n, old_s, old_n))
        local is_longer = kept_until < leased_until or (is_new and kept_until <= s)
        if is_longer then
            kept_until = math.max(s + 1, leased_until) + SPARE
        end
        local field = pack('<I4I4I4I4I4', s, n, kept_until, all_returned_s[limit], all_returned_n[limit])
        size = size + 1
        times[size] = field
        if is_longer then
            call('HSET', key, names[limit], field)
            keep(key, kept_until)
        elseif is_new and has_several == 0 then
            call('HSET', key, names[limit], field)
        elseif is_new then
            fields[count + 1], fields[count + 2] = names[limit], field
            count = count + 2
        end
        if count > 0 and (limit == limits or keys[limit + 1] ~= key) then
            call('HSET', key, unpack(fields, 1, count))
            count = 0
        end
    end
    if is_lease == 1 then
        all_granted[#all_granted + 1] = granted
    end
end

return { now_s, now_n, table.concat(decisions), table.concat(times), unpack(all_granted) }
