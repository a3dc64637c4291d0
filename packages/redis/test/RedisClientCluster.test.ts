import { assert, describe, it } from "@effect/vitest"
import { RedisClient, RedisError } from "@underlay/redis"
import * as Need from "@underlay/servers/Need"
import * as Cluster from "@underlay/servers/RedisCluster"
import * as Server from "@underlay/servers/RedisServer"
import { Effect, Either, Fiber } from "effect"
import { drivers, failureOf, open as openClient, pause, timed, until, watchdog } from "./RedisClientSupport.ts"

const options = (cluster: Cluster.RedisCluster, more: RedisClient.Options = {}): RedisClient.Options => ({
  nodes: cluster.nodes.slice(0, 3).map(({ announced, host }) => ({ host, port: announced })),
  commandTimeout: "5 seconds",
  ...more
})

const keys = Array.from({ length: 200 }, (_, index) => `key-${index}`)

const reasons = (results: ReadonlyArray<Either.Either<unknown, RedisError.RedisError>>) =>
  results.flatMap((result) => (Either.isLeft(result) ? [`${result.left.reason}: ${result.left.message}`] : []))

for (const [version, driver] of drivers) {
  describe.skipIf(Need.missing("redis-server"))(
    Need.title(`RedisClient on a Cluster, on ${version}`, "redis-server"),
    () => {
      const open = (options: RedisClient.Options) => openClient({ driver, ...options })

      it.scopedLive(
        "sends each command where its key is: alone, in pipelines, scripts, transactions and on isolated connections",
        () =>
          Effect.gen(function* () {
            const cluster = yield* Cluster.make({ replicas: 0, password: "hunter2" })
            // one node is enough to find the others
            const [first] = cluster.nodes
            const { redis } = yield* open({
              url: `redis-cluster://:hunter2@127.0.0.1:${first?.announced}`,
              commandTimeout: "5 seconds"
            })
            assert.strictEqual(redis.topology, "cluster")
            assert.strictEqual(yield* redis.state, "ready")
            const nodes = yield* redis.nodes
            assert.sameMembers(
              nodes.map(({ id }) => id),
              cluster.nodes.map(({ announced }) => `127.0.0.1:${announced}`)
            )
            const set = yield* redis.sendMany(keys.map((key) => ["SET", key, key] as const))
            assert.deepStrictEqual(reasons(set), [])
            assert.deepStrictEqual(
              yield* redis.sendMany(keys.map((key) => ["GET", key] as const)),
              keys.map(Either.right)
            )
            const sizes = yield* Effect.forEach(nodes, (node) => node.send("DBSIZE"))
            assert.strictEqual(
              sizes.reduce<number>((all, size) => all + Number(size), 0),
              keys.length
            )
            for (const size of sizes) assert.isAbove(Number(size), 0)
            assert.strictEqual((yield* redis.stats).redirected, 0, "the map is right from the start")

            const echo = RedisClient.script("echo", "return {KEYS[1], redis.call('GET', KEYS[1])}")
            for (const key of keys.slice(0, 20)) assert.deepStrictEqual(yield* redis.run(echo, [key], []), [key, key])

            const done = yield* redis.transaction([
              ["SET", "{one}:a", 1],
              ["INCR", "{one}:b"],
              { script: echo, keys: ["{one}:a"], args: [] }
            ])
            assert.deepStrictEqual(done, [Either.right("OK"), Either.right(1), Either.right(["{one}:a", "1"])])

            for (const key of keys.slice(0, 6)) {
              const own = yield* Effect.scoped(
                Effect.gen(function* () {
                  const one = yield* redis.isolated({ key })
                  yield* one.send("WATCH", key)
                  return yield* one.transaction([["GET", key]])
                })
              )
              assert.deepStrictEqual(own, [Either.right(key)])
            }
            assert.strictEqual(yield* redis.send("PING"), "PONG")
          }),
        60_000
      )

      it.scopedLive(
        "keys of several slots are refused before anything is sent",
        () =>
          Effect.gen(function* () {
            const cluster = yield* Cluster.make({ replicas: 0 })
            const { redis } = yield* open(options(cluster))
            const { sent } = yield* redis.stats
            const two = RedisClient.script("two", "return 1")
            const errors = [
              yield* failureOf(redis.send("MGET", "a", "b")),
              yield* failureOf(redis.send("DEL", "a", "b")),
              yield* failureOf(redis.send("RENAME", "a", "b")),
              yield* failureOf(redis.send("EVAL", "return 1", 2, "a", "b")),
              yield* failureOf(redis.send("XREAD", "COUNT", 1, "STREAMS", "a", "b", 0, 0)),
              yield* failureOf(redis.run(two, ["a", "b"], [])),
              yield* failureOf(
                redis.transaction([
                  ["SET", "a", 1],
                  ["SET", "b", 1]
                ])
              )
            ]
            for (const error of errors) assert.deepStrictEqual([error.reason, error.outcome], ["CrossSlot", "not-sent"])
            assert.strictEqual((yield* redis.stats).sent, sent)
            const refused = yield* failureOf(open(options(cluster, { autoPipelining: true })))
            assert.include(refused.message, "autoPipelining")
          }),
        60_000
      )

      it.scopedLive(
        "slots that are moved while they are used: every command is done once, on the right node",
        () =>
          Effect.gen(function* () {
            const cluster = yield* Cluster.make({ replicas: 0 })
            const { redis } = yield* open(options(cluster))
            const names = Array.from({ length: 20 }, (_, index) => `counter-${index}`)
            let stop = false
            let rounds = 0
            const failures: Array<string> = []
            const load = yield* Effect.fork(
              Effect.gen(function* () {
                while (!stop) {
                  const results = yield* redis.sendMany(names.map((name) => ["INCR", name] as const))
                  failures.push(...reasons(results))
                  const tagged = yield* Effect.either(
                    redis.transaction([
                      ["INCR", "{counter-0}:a"],
                      ["INCR", "{counter-0}:b"]
                    ])
                  )
                  if (Either.isLeft(tagged)) failures.push(String(tagged.left))
                  const several = yield* Effect.either(redis.send("MGET", "{counter-0}:a", "{counter-0}:b"))
                  if (Either.isLeft(several)) failures.push(String(several.left))
                  rounds++
                }
              })
            )
            yield* until(Effect.sync(() => rounds > 3))
            const slots = yield* Effect.forEach(names, cluster.slotOf)
            for (const to of [0, 1, 2]) yield* cluster.migrate(slots, to)
            const before = rounds
            yield* until(Effect.sync(() => rounds > before + 3))
            stop = true
            yield* Fiber.join(load)
            assert.deepStrictEqual([...new Set(failures)], [])
            const values = yield* redis.sendMany(
              [...names, "{counter-0}:a", "{counter-0}:b"].map((name) => ["GET", name])
            )
            assert.deepStrictEqual(
              values,
              values.map(() => Either.right(String(rounds)))
            )
            assert.isAbove((yield* redis.stats).redirected, 0)
          }),
        120_000
      )

      it.scopedLive(
        "a slot on its way: the key that has gone is asked for at its new node, with a transaction and a script too",
        () =>
          Effect.gen(function* () {
            const cluster = yield* Cluster.make({ replicas: 0 })
            const { redis } = yield* open(options(cluster))
            yield* redis.send("SET", "{way}:a", "1")
            yield* redis.send("SET", "{way}:b", "2")
            const slot = yield* cluster.slotOf("{way}:a")
            const from = yield* cluster.ownerOf(slot)
            const move = yield* cluster.startMove(slot, (from.index + 1) % 3)
            assert.strictEqual(yield* move.migrateKeys(), 2)
            assert.strictEqual(yield* redis.send("GET", "{way}:a"), "1")
            assert.strictEqual(String(yield* redis.sendBuffer("GET", "{way}:a")), "1")
            const read = RedisClient.script("read", "return redis.call('GET', KEYS[1])")
            assert.strictEqual(yield* redis.run(read, ["{way}:b"], []), "2")
            assert.deepStrictEqual(
              yield* redis.transaction([
                ["INCR", "{way}:a"],
                ["GET", "{way}:b"]
              ]),
              [Either.right(2), Either.right("2")]
            )
            const wrong = yield* failureOf(redis.send("LPUSH", "{way}:a", "x"))
            assert.deepStrictEqual([wrong.reason, wrong.outcome], ["WrongType", "rejected"])
            yield* move.finish
            assert.deepStrictEqual(yield* redis.send("MGET", "{way}:a", "{way}:b"), ["2", "2"])
          }),
        60_000
      )

      it.scopedLive(
        "a master that dies: its slots fail typed and in time, the others go on, and the replica is found",
        () =>
          Effect.gen(function* () {
            const cluster = yield* Cluster.make({ masters: 3, replicas: 1 })
            const { redis } = yield* open(options(cluster, { commandTimeout: "1 second" }))
            yield* redis.sendMany(keys.map((key) => ["SET", key, key] as const))
            const heard: Array<string> = []
            yield* redis.listen(["news"], (event) => {
              heard.push(event._tag === "Message" ? event.payload : event._tag)
            })
            const reading = yield* Effect.fork(
              Effect.forever(
                Effect.flatMap(
                  Effect.forEach(keys, (key) => Effect.either(redis.send("GET", key)), { concurrency: 20 }),
                  (results) => Effect.as(pause(10), results)
                )
              )
            )
            yield* cluster.killMaster(0)
            yield* until(
              Effect.map(
                redis.sendMany(keys.map((key) => ["SET", key, "again"] as const)),
                (all) => reasons(all).length === 0
              )
            )
            yield* Fiber.interrupt(reading)
            yield* until(Effect.map(redis.state, (state) => state === "ready"))
            yield* until(Effect.sync(() => heard.at(-1) === "Ready"))
            yield* redis.send("PUBLISH", "news", "hello")
            yield* until(Effect.sync(() => heard.at(-1) === "hello"))
            // What was interrupted is in flight until its answer is there.
            yield* until(Effect.map(redis.stats, ({ inFlight, waiting }) => inFlight === 0 && waiting === 0))
          }),
        120_000
      )

      it.scopedLive(
        "default settings, a master that is frozen: every call settles in 550 ms; served after the failover, and after it thaws",
        () =>
          Effect.gen(function* () {
            const cluster = yield* Cluster.make({ masters: 3, replicas: 1 })
            const { redis } = yield* open(options(cluster, { commandTimeout: undefined }))
            const all = () => redis.sendMany(keys.map((key) => ["SET", key, key] as const))
            yield* all()
            const frozen = cluster.nodes[0]
            assert.isDefined(frozen)
            if (frozen === undefined) return
            const load = yield* watchdog(redis, (n) => ["SET", keys[n % keys.length] ?? "", "again"])
            yield* frozen.freeze
            yield* until(Effect.map(redis.state, (state) => state === "away"))
            yield* until(
              Effect.map(all(), (results) => reasons(results).length === 0),
              30_000
            )
            yield* until(Effect.map(redis.state, (state) => state === "ready"))
            yield* frozen.thaw
            yield* until(
              Effect.orElseSucceed(
                Effect.map(frozen.command("ROLE"), (role) => role.includes("slave")),
                // as a replica it sends its clients away
                () => false
              ),
              30_000
            )
            yield* load.stop
            assert.deepStrictEqual(reasons(yield* all()), [])
            const report = yield* load.report
            assert.strictEqual(report.late, 0, JSON.stringify(report))
            const { inFlight, waiting } = yield* redis.stats
            assert.deepStrictEqual({ inFlight, waiting }, { inFlight: 0, waiting: 0 })
          }),
        120_000
      )

      it.scopedLive(
        "an eager client starts while a master is dead or frozen, and serves the slots of the others",
        () =>
          Effect.gen(function* () {
            const cluster = yield* Cluster.make({
              replicas: 0,
              nodeTimeout: 60_000,
              arguments: ["--cluster-require-full-coverage", "no"]
            })
            const [first] = cluster.nodes
            assert.isDefined(first)
            if (first === undefined) return
            const owners = yield* cluster.owners
            const owned = yield* Effect.forEach(keys.slice(0, 60), (key) =>
              Effect.map(cluster.slotOf(key), (slot) => ({ key, owner: owners[slot] }))
            )
            const [mine, others] = [
              owned.filter(({ owner }) => owner === 0).map(({ key }) => key),
              owned.filter(({ owner }) => owner !== 0).map(({ key }) => key)
            ]
            assert.isNotEmpty(mine)
            for (const [goAway, comeBack] of [
              [first.kill, first.start],
              [first.freeze, first.thaw]
            ] as const) {
              yield* goAway
              const [{ redis, release }, took] = yield* timed(open(options(cluster, { commandTimeout: undefined })))
              assert.isBelow(took, 2_000)
              const served = yield* redis.sendMany(others.map((key) => ["SET", key, key] as const))
              assert.deepStrictEqual(reasons(served), [])
              for (const result of yield* redis.sendMany(mine.map((key) => ["GET", key] as const))) {
                assert.isTrue(Either.isLeft(result) && result.left.isRetryable && result.left.outcome === "not-sent")
              }
              // by now it is known
              const [again, at] = yield* timed(failureOf(redis.send("GET", mine[0] ?? "")))
              assert.deepStrictEqual([again.reason, again.outcome], ["Unavailable", "not-sent"])
              assert.isBelow(at, 50)
              assert.strictEqual(yield* redis.state, "away")
              yield* comeBack
              yield* until(Effect.map(redis.state, (state) => state === "ready"))
              // it says CLUSTERDOWN until it has heard of the others
              yield* until(Effect.map(Effect.either(redis.send("SET", mine[0] ?? "", "1")), Either.isRight))
              yield* release
            }
            for (const node of cluster.nodes) yield* node.freeze
            const [error, took] = yield* timed(failureOf(open(options(cluster, { connectTimeout: "1 second" }))))
            for (const node of cluster.nodes) yield* node.thaw
            assert.strictEqual(error._tag === "RedisError" && error.reason, "Timeout")
            assert.isBelow(took, 3_000)
          }),
        120_000
      )

      it.scopedLive("a server that is no Cluster is a typed error, at once", () =>
        Effect.gen(function* () {
          const { host, port } = yield* Server.make()
          const error = yield* failureOf(open({ nodes: [{ host, port }] }))
          assert.instanceOf(error, RedisError.RedisError)
          assert.deepStrictEqual([error.reason, error.outcome], ["Rejected", "not-sent"])
          assert.include(error.description, "no Cluster")
          assert.include(String(error.original), "cluster support disabled")
        })
      )
    }
  )
}
