-- wrk: each request is for one of $HOSTS virtual hosts, drawn at random.
local count = tonumber(os.getenv("HOSTS"))
local requests = {}

function init()
    for number = 0, count - 1 do
        requests[number] = wrk.format("GET", "/", { Host = "h" .. number .. ".test" })
    end
end

function request()
    return requests[math.random(0, count - 1)]
end
