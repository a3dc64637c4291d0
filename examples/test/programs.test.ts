import { spawn } from "node:child_process"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { assert, describe, it } from "@effect/vitest"
import * as Need from "@underlay/servers/Need"
import * as RedisServer from "@underlay/servers/RedisServer"
import { Effect } from "effect"

const folder = Path.resolve(import.meta.dirname, "../src")

/** Runs a program as a user would, without anything of this environment that would choose real services but `variables`. */
const run = (name: string, variables: Readonly<Record<string, string>> = {}) =>
  Effect.async<{ readonly code: number | null; readonly out: string; readonly err: string }>((resume) => {
    const { PATH, HOME } = process.env
    const child = spawn(process.execPath, ["--import", "tsx", Path.join(folder, name)], {
      cwd: Path.dirname(folder),
      env: { PATH, HOME, NO_COLOR: "1", ...variables }
    })
    let out = ""
    let err = ""
    child.stdout.on("data", (chunk) => {
      out += chunk
    })
    child.stderr.on("data", (chunk) => {
      err += chunk
    })
    child.on("close", (code) => resume(Effect.succeed({ code, out, err })))
    return Effect.sync(() => child.kill("SIGKILL"))
  })

/** What each program must have said. */
const programs: Record<string, ReadonlyArray<string | RegExp>> = {
  "readme.ts": ["Good morning, Ada."],
  "session-store.ts": [
    "a write to the old id: SessionGone",
    /cart: .*apples/,
    /cart: .*pears/,
    "signed out of 1 session"
  ],
  "cache.ts": ["100 answers, all Ada", /^looking for user 7$/m, "loads: 3, joined a load that ran: 99"],
  "caches.ts": [
    "users: 1 loaded, 1 written, 1 found",
    "prices: 0 loaded, 1 written, 0 found",
    "cleared: 1",
    "named in the file and not used: none"
  ],
  "sign-up.ts": [
    "to ada@example.org: your code is on its way (<redacted>)",
    "somebody else, the same address: Pending",
    "another code at once: Throttled",
    "a wrong code: 2 tries left",
    "the code without the ticket: NotFound",
    /^confirmed: Ada$/m
  ],
  "fallback-sessions.ts": [
    'cart: ["apples"]',
    /^(?:Redis is away: 1 session is kept here|the sessions are in Redis)$/m,
    "a write after the sign-out: SessionGone"
  ],
  "lock.ts": [
    /^\w+ wrote the report\n\w+ had nothing to do\n\w+ had nothing to do$/m,
    "balance: 100, tokens: 10",
    "a write with an old token: Stale"
  ],
  "rate-limiter.ts": [
    "of 7 logins 5 were allowed",
    "the next one may come in about a minute",
    "headers: retry-after, ratelimit-limit, ratelimit-remaining, ratelimit-reset",
    "another address: allowed",
    "2 calls were within the month's 1000 tokens"
  ],
  "events.ts": [
    "published twice: one event",
    "in order: a placed, a paid, a sent",
    "dead letter of order b: no address",
    "after the replay: b placed"
  ],
  "conversation-memory.ts": [
    "the last two: Whether it runs, and which address it listens on. | It listens on 127.0.0.1 only.",
    "kept 2, dropped 2; the first is still from: system",
    "summary: Ada's Redis refuses connections.",
    "forgotten: true"
  ],
  "vector-store.ts": [/^0\.\d\d {2}redis/],
  "language-model.ts": ["Because nothing listens on that address and port. (stop)", "high: nobody can log in"],
  "language-models.ts": [
    /not ready: .*application-llm\.yaml:\d+:\d+: llm\.providers\.claude\.apiKey: .*ANTHROPIC_API_KEY/,
    /^Nothing listens on that address and port\.$/m,
    "vectors of documents have 512 numbers",
    /^scripted \(scripted\): idle$/m,
    "not used: llm.providers.claude, llm.providers.gpt, llm.providers.local"
  ],
  "tool-loop.ts": [
    'asks for weather {"city":"Atlantis"}',
    'is told "Atlantis is not on the map" (an error)',
    "finished after 2 steps"
  ],
  "ollama-server.ts": [
    "it has llama3.2:latest",
    "pulling 7f4030143c1c: 25 %",
    "qwen3 with 40960 tokens can: completion, tools, thinking",
    "what is not there is NotFound"
  ],
  "external-client.ts": ["the third attempt was answered", /circuit breaker is open/, "a forecast of another shape"],
  "resilience.ts": [
    /hedge {2,}/,
    "answered by attempt 2, which was started beside a slow one",
    "of 6 at once 4 were served, 2 refused by the bulkhead",
    "the service is down, the last good price was 12",
    "the circuit is open",
    "attemptTimeout (2s) is longer than timeout (1s)",
    "calls that were audited: 9"
  ],
  "composed-layers.ts": ["with the production layers", "with the test layers", "both gave the same answer"]
}

/** Those that use Redis where `REDIS_URL` is set: they must say the same there. */
const onRedis = Object.keys(programs).filter((name) =>
  /"REDIS_URL"|RedisConnection\.kind/.test(Fs.readFileSync(Path.join(folder, name), "utf8"))
)

const check = (name: string, variables?: Readonly<Record<string, string>>) =>
  Effect.gen(function* () {
    const { code, err, out } = yield* run(name, variables)
    assert.strictEqual(code, 0, err + out)
    assert.strictEqual(err, "")
    for (const words of programs[name] ?? []) {
      if (typeof words === "string") assert.include(out, words)
      else assert.match(out, words)
    }
  })

describe("the example programs", () => {
  for (const name of Object.keys(programs)) it.live(name, () => check(name), 60_000)
})

describe.skipIf(Need.missing("redis-server"))(Need.title("the example programs on Redis", "redis-server"), () => {
  it("are those of the state layers", () => {
    assert.includeMembers(onRedis, [
      "cache.ts",
      "caches.ts",
      "conversation-memory.ts",
      "events.ts",
      "fallback-sessions.ts",
      "lock.ts",
      "rate-limiter.ts",
      "session-store.ts"
    ])
  })

  for (const name of onRedis) {
    it.scopedLive(
      name,
      () =>
        Effect.gen(function* () {
          const server = yield* RedisServer.make()
          const before = yield* commands(server)
          yield* check(name, { REDIS_URL: server.url, CACHE_KIND: "redis" })
          assert.isAbove((yield* commands(server)) - before, 8, "it asked Redis")
          // every key that is left has a time to live
          const left = yield* server.call("EVAL", immortal, "0")
          assert.deepStrictEqual(left, [])
        }),
      60_000
    )
  }
})

/** How many commands the server has had. */
const commands = (server: RedisServer.RedisServer) =>
  Effect.map(server.command("INFO", "stats"), (info) => Number(/total_commands_processed:(\d+)/.exec(info)?.[1]))

const immortal = `local found = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  if redis.call('TTL', key) < 0 then found[#found + 1] = key end
end
return found`
