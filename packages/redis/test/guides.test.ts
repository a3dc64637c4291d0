import * as Fs from "node:fs"
import * as Path from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { RedisClient } from "@underlay/redis"
import * as Need from "@underlay/servers/Need"
import * as Readme from "@underlay/servers/Readme"
import * as RedisServer from "@underlay/servers/RedisServer"
import { Effect, Layer } from "effect"
import * as Operations from "./operations.ts"
import * as Stores from "./stores.ts"

const root = Path.join(import.meta.dirname, "..")
const folder = Path.join(root, "../../docs")
const guide = Fs.readFileSync(Path.join(folder, "redis-guide.md"), "utf8")

/** The cells of the rows of the table that follows these words. */
const tableAfter = (words: string): ReadonlyArray<ReadonlyArray<string>> => {
  const [, after = ""] = guide.split(words)
  const lines = after.split("\n")
  const begin = lines.findIndex((line) => line.startsWith("|"))
  const end = lines.findIndex((line, index) => index > begin && !line.startsWith("|"))
  return lines.slice(begin + 2, end).map((line) =>
    line
      .split("|")
      .slice(1, -1)
      .map((cell) => cell.trim())
  )
}

/** What the programs of each guide give, in their order: a value, or a check of it. */
const results: Record<string, ReadonlyArray<readonly [title: string, result: unknown]>> = {
  "redis-guide.md": [
    ["Sessions: one round trip each", [100, "SessionGone"]],
    ["Sessions: one round trip each", ["Created", "Deleted"]],
    ["Sessions while Redis is away", [true, "fallback", 1]],
    ["Locks: a token that the resource checks", ["Stale", "second"]],
    ["Locks: a token that the resource checks", "2"],
    ["Limits and budgets", [10, true, 5]],
    ["Events", [true, ["ada@example.org"], ["Failed"]]],
    ["Anything else: commands, pipelines, transactions, scripts", [true, "WrongType", 1, null]],
    ["Sizing", { commands: 1, listening: 2 }],
    [
      "Sizing",
      (measured: unknown) => {
        const documented = Object.fromEntries(tableAfter("**Memory.**").map(([entry, bytes]) => [entry, Number(bytes)]))
        assert.deepStrictEqual(Object.keys(Object(measured)), Object.keys(documented))
        for (const [entry, bytes] of Object.entries(Object(measured))) {
          // another build of Redis allocates otherwise, but not by much
          assert.approximately(Number(bytes), documented[entry] ?? 0, Number(bytes) * 0.2, `${entry}: ${bytes}`)
        }
      }
    ],
    ["From a direct client", (visits: unknown) => assert.isBelow(Number(visits), 10, "the lost update is lost")],
    ["From a direct client", 10],
    ["From a watched client", '{"user_id":"ada"}'],
    ["From a watched client", "ada"],
    ["Rolling back", true]
  ],
  "cache-guide.md": [
    ["Look aside, in one call", { loads: 1, joined: 99, writes: 1 }],
    ["Where a value is: the tiers", [1, 1, 2]],
    ["How old a value may be", { first: 1.1, second: 1.1, graced: 2, loads: 2 }],
    ["Making values worthless", [null, null, "about"]]
  ],
  "migration.md": [
    [
      "From node-redis",
      (given: unknown) => {
        const [visits, ...rest] = Array.isArray(given) ? given : []
        assert.isBelow(Number(visits), 10, "the lost update is lost")
        assert.deepStrictEqual(rest, [1, "welcome"])
      }
    ],
    ["From node-redis", [10, 1, ["mails", "welcome"]]]
  ]
}

for (const [name, expected] of Object.entries(results)) {
  const blocks = Readme.blocksOfGuide(Path.join(folder, name))

  describe(name, () => {
    it("has a result for each of its programs", () => {
      assert.deepStrictEqual(
        blocks.map(({ title }) => title),
        expected.map(([title]) => title)
      )
    })

    it.scopedLive.skipIf(Need.missing("redis-server"))(
      Need.title("its programs run", "redis-server"),
      () =>
        Effect.gen(function* () {
          const server = yield* RedisServer.make()
          yield* Readme.environment({ REDIS_URL: server.url })
          const { files } = yield* Readme.write(root, blocks)
          for (const [index, [title, result]] of expected.entries()) {
            yield* server.call("FLUSHALL")
            const given = yield* Readme.run(files[index] ?? "")
            if (typeof result === "function") result(given)
            else assert.deepStrictEqual(given, result, title)
            // whatever a program of the guide writes has an end
            assert.deepStrictEqual(yield* server.call("EVAL", immortal, "0"), [], title)
          }
        }),
      60_000
    )
  })
}

const immortal = `local found = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  if redis.call('TTL', key) == -1 then found[#found + 1] = key end
end
return found`

/** The keys in the first column of the table of keys, as patterns. */
const patterns = tableAfter("## Keys").map(([key = "", type = ""]) => ({
  key,
  types: type.split(", "),
  pattern: new RegExp(
    `^${key
      .replaceAll("`", "")
      .replace(/[.*+?^${}()|[\]\\]/g, "\\$&")
      .replace(/<\w+>/g, ".+")}$`
  )
}))

/** Every key with its type and its time to live in seconds. */
const listing = `local found = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  found[#found + 1] = {key, redis.call('TYPE', key).ok, redis.call('TTL', key)}
end
return found`

describe.skipIf(Need.missing("redis-server"))(Need.title("the table of keys", "redis-server"), () => {
  it.scopedLive(
    "has every key that any operation writes, with its type, and each has a time to live",
    () =>
      Effect.gen(function* () {
        const server = yield* RedisServer.make()
        const seen = new Map<string, { readonly type: string; readonly ttl: number }>()
        const look = Effect.map(Effect.orDie(server.call("EVAL", listing, "0")), (reply) => {
          for (const row of Array.isArray(reply) ? reply : []) {
            const [key, type, ttl] = Array.isArray(row) ? row : []
            seen.set(String(key), { type: String(type), ttl: Number(ttl) })
          }
        })
        yield* Effect.gen(function* () {
          // what is only there for a moment, too
          yield* Effect.forkScoped(Effect.forever(Effect.zipRight(Effect.sleep("2 millis"), look)))
          yield* Operations.runAll(yield* Operations.everything, look)
        }).pipe(
          Effect.scoped,
          Effect.provide(
            Stores.layer.pipe(Layer.provideMerge(RedisClient.layer({ host: server.host, port: server.port })))
          )
        )
        assert.isAbove(seen.size, 40)
        for (const [key, { ttl, type }] of seen) {
          // the keys of the test's own commands
          if (key === "silent" || key.startsWith("silent:") || key.startsWith("fenced:")) continue
          assert.notStrictEqual(ttl, -1, `${key} has no time to live`)
          const row = patterns.find(({ pattern }) => pattern.test(key))
          assert.isDefined(row, `${key} (${type}) is not in the table`)
          assert.include(
            row?.types.map((one) => (one === "sorted set" ? "zset" : one)),
            type,
            `${key} as ${row?.key}`
          )
        }
      }),
    60_000
  )

  it("has every setting and every variable that the settings read", () => {
    const source = Fs.readFileSync(Path.join(root, "src/RedisSettings.ts"), "utf8")
    const settings = tableAfter("## Where the server is").flatMap((row) => row.join(" ").match(/`[\w.]+`/g) ?? [])
    for (const [, name = ""] of source.matchAll(/\b(?:text|list)\("([^"]+)"\)/g)) {
      assert.include(settings, name.startsWith("REDIS_") ? `\`${name}\`` : `\`redis.${name}\``)
    }
  })
})
