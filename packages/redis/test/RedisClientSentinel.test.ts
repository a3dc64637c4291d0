import { assert, describe, it } from "@effect/vitest"
import type { RedisClient } from "@underlay/redis"
import * as Need from "@underlay/servers/Need"
import * as Sentinel from "@underlay/servers/RedisSentinel"
import * as Server from "@underlay/servers/RedisServer"
import { Effect, Either } from "effect"
import { drivers, failureOf, open as openClient, pause, timed, until, watchdog } from "./RedisClientSupport.ts"

const options = (watched: Sentinel.RedisSentinel, more: RedisClient.Options = {}): RedisClient.Options => ({
  sentinels: watched.sentinels.map(({ host, port }) => ({ host, port })),
  master: watched.master,
  ...more
})

/** The port of the server that the client's commands go to. */
const portOf = (redis: RedisClient.Service): Effect.Effect<number> =>
  Effect.map(Effect.either(redis.send("CONFIG", "GET", "port")), (reply) =>
    Either.isRight(reply) && Array.isArray(reply.right) ? Number(reply.right[1]) : 0
  )

const writes = (redis: RedisClient.Service) =>
  Effect.map(Effect.either(redis.send("SET", "probe", "1")), Either.isRight)

for (const [version, driver] of drivers) {
  describe.skipIf(Need.missing("redis-server"))(
    Need.title(`RedisClient through Sentinel, on ${version}`, "redis-server"),
    () => {
      const open = (options: RedisClient.Options) => openClient({ driver, ...options })

      it.scopedLive(
        "follows the master over a crash: subscriptions, isolated connections and all",
        () =>
          Effect.gen(function* () {
            const watched = yield* Sentinel.make()
            const { redis } = yield* open(options(watched))
            assert.strictEqual(redis.topology, "sentinel")
            const first = yield* watched.masterServer
            assert.strictEqual(yield* portOf(redis), first.port)
            const heard: Array<string> = []
            yield* redis.listen(["news"], (event) => {
              heard.push(event._tag === "Message" ? event.payload : event._tag)
            })
            const next = yield* watched.failover
            yield* until(writes(redis))
            assert.strictEqual(yield* portOf(redis), next.port)
            assert.deepStrictEqual(
              (yield* redis.nodes).map(({ id }) => id),
              [`127.0.0.1:${next.port}`]
            )
            yield* until(Effect.sync(() => heard.filter((one) => one === "Ready").length === 2))
            yield* redis.send("PUBLISH", "news", "hello")
            yield* until(Effect.sync(() => heard.includes("hello")))
            assert.deepStrictEqual(heard, ["Ready", "Lost", "Ready", "hello"])
            const own = yield* Effect.scoped(Effect.flatMap(redis.isolated(), (one) => one.send("SET", "own", "1")))
            assert.strictEqual(own, "OK")
            assert.isAtLeast((yield* redis.stats).reconnects, 1)
          }),
        60_000
      )

      it.scopedLive(
        "goes over to the new master when the old one lives on as a replica",
        () =>
          Effect.gen(function* () {
            const watched = yield* Sentinel.make()
            const { redis } = yield* open(options(watched))
            // replication is not waited for unless one asks for it
            yield* Effect.scoped(
              Effect.gen(function* () {
                const one = yield* redis.isolated()
                yield* one.send("SET", "kept", "1")
                assert.strictEqual(yield* one.block("5 seconds", "WAIT", 2, 5_000), 2)
              })
            )
            const next = yield* watched.switchOver
            yield* until(Effect.map(portOf(redis), (port) => port === next.port))
            yield* until(writes(redis))
            assert.strictEqual(yield* redis.send("GET", "kept"), "1")
          }),
        60_000
      )

      it.scopedLive(
        "a frozen Sentinel and a dead one hold nothing up; a client made by the last one learns of the others",
        () =>
          Effect.gen(function* () {
            const watched = yield* Sentinel.make({ password: "hunter2", sentinelPassword: "hunter3" })
            const [one, two, three] = watched.sentinels
            assert.isTrue(one !== undefined && two !== undefined && three !== undefined)
            if (one === undefined || two === undefined || three === undefined) return
            const more = { password: "hunter2", sentinelPassword: "hunter3" }
            const { redis } = yield* open({ ...options(watched, more), sentinels: [`127.0.0.1:${three.port}`] })
            yield* one.freeze
            yield* two.kill
            const other = yield* open(options(watched, more))
            assert.strictEqual(yield* other.redis.send("PING"), "PONG")
            yield* one.thaw
            yield* two.start
            yield* three.kill
            // the Sentinels that it was told of are asked now
            const master = yield* watched.masterServer
            yield* master.kill
            yield* until(Effect.map(redis.state, (state) => state === "away"))
            yield* until(writes(redis), 30_000)
          }),
        90_000
      )

      it.scopedLive(
        "default settings, a master that is frozen: every call settles in 550 ms; served after the failover, and after it thaws",
        () =>
          Effect.gen(function* () {
            const watched = yield* Sentinel.make()
            const { redis } = yield* open({ ...options(watched), commandTimeout: undefined })
            const old = yield* watched.masterServer
            const load = yield* watchdog(redis, (n) => ["SET", `key-${n % 100}`, n])
            yield* old.freeze
            yield* until(Effect.map(redis.state, (state) => state === "away"))
            yield* until(
              Effect.map(portOf(redis), (port) => port !== 0 && port !== old.port),
              30_000
            )
            yield* until(writes(redis))
            const next = yield* portOf(redis)
            yield* old.thaw
            // what was the master comes back, believes it still is, and is told otherwise; its clients are sent away then
            yield* until(
              Effect.orElseSucceed(
                Effect.map(old.command("ROLE"), (role) => role.includes("slave")),
                () => false
              ),
              30_000
            )
            yield* load.stop
            assert.strictEqual(yield* portOf(redis), next)
            assert.strictEqual((yield* load.report).late, 0, JSON.stringify(yield* load.report))
            assert.isTrue(yield* writes(redis))
          }),
        90_000
      )

      it.scopedLive(
        "a master that is frozen and thaws before anybody noticed is used on, within a second",
        () =>
          Effect.gen(function* () {
            const watched = yield* Sentinel.make({ replicas: 1, downAfter: 30_000 })
            const { redis } = yield* open({ ...options(watched), commandTimeout: undefined })
            const server = yield* watched.masterServer
            const load = yield* watchdog(redis, () => ["INCR", "counter"])
            yield* server.freeze
            yield* until(Effect.map(redis.state, (state) => state === "away"))
            yield* pause(1_500)
            yield* server.thaw
            const [, took] = yield* timed(until(Effect.map(redis.state, (state) => state === "ready")))
            assert.isBelow(took, 1_000)
            yield* load.stop
            const { done, late, unknown } = yield* load.report
            assert.strictEqual(late, 0)
            const counter = Number(yield* redis.send("GET", "counter"))
            assert.isAtLeast(counter, done)
            assert.isAtMost(counter, done + unknown)
          }),
        60_000
      )

      it.scopedLive("an unknown master, a wrong password and no Sentinel at all are typed errors", () =>
        Effect.gen(function* () {
          const watched = yield* Sentinel.make({ replicas: 1, sentinels: 1, quorum: 1, sentinelPassword: "hunter2" })
          const right = options(watched, { sentinelPassword: "hunter2" })
          const unknown = yield* failureOf(open({ ...right, master: "nobody" }))
          assert.deepStrictEqual(
            [unknown._tag, unknown._tag === "RedisError" && unknown.reason],
            ["RedisError", "Rejected"]
          )
          for (const sentinelPassword of ["hunter3", ""]) {
            const refused = yield* failureOf(open({ ...right, sentinelPassword }))
            assert.strictEqual(refused._tag === "RedisError" && refused.reason, "Authentication")
            assert.notInclude(String(refused), "hunter")
          }
          const port = yield* Server.freePort
          const nobody = yield* failureOf(open({ ...right, sentinels: [{ host: "127.0.0.1", port }] }))
          assert.strictEqual(nobody._tag === "RedisError" && nobody.reason, "Unavailable")
        })
      )

      it.scopedLive("speaks TLS with Sentinels and master", () =>
        Effect.gen(function* () {
          const watched = yield* Sentinel.make({ replicas: 1, sentinels: 1, quorum: 1, tls: true })
          const { redis } = yield* open(options(watched, { tls: true, ca: watched.certificates?.ca }))
          assert.strictEqual(yield* redis.send("PING"), "PONG")
        })
      )
    }
  )
}
